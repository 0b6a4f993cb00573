"""Finds the fewest events of a history that still break the same invariant."""

from collections.abc import Callable

from tests.world.events import Event, History

# Each try plays a history.
_MOST_TRIES = 150


def shrink(history: History, fails: Callable[[History], bool]) -> History:
    """Drop events, most of them at once first, as long as `fails` says that it still does.

    A dropped event changes what follows it, so this may end a few events above the fewest; it ends
    after a bounded number of tries in any case.
    """
    events, tries = list(history.events), 0

    def still_fails(kept: list[Event]) -> bool:
        nonlocal tries
        tries += 1
        return fails(History(history.seed, tuple(kept)))

    size = max(1, len(events) // 2)
    while size:
        at, dropped = len(events) - size, False
        # From the end: what comes after the violation goes first.
        while at > -size and tries < _MOST_TRIES:
            kept = events[: max(0, at)] + events[at + size :]
            if len(kept) < len(events) and still_fails(kept):
                events, dropped = kept, True
            at -= size
        if tries >= _MOST_TRIES:
            break
        if not dropped or size > 1:
            size //= 2
    return History(history.seed, tuple(events))
