"""What goes wrong in a history, when it is due."""

from collections import Counter
from typing import Any

from amoeba_sglang.planes.transport import PeerLostError
from tests.world import events
from tests.world.stage import STAGE


class Faults:
    """Armed by the events of a history, each fires once. `lost`: by rank, how it was lost and
    when. `longest_step`: seconds that a step has been made longer at most."""

    def __init__(self, play: Any) -> None:
        self._play = play
        self._maps: set[tuple[int, str]] = set()
        self._no_pages: set[int] = set()
        self._slow: Counter[int] = Counter()
        self._late: Counter[tuple[int, bool]] = Counter()
        self._faulted: set[int] = set()
        self._seen: dict[int, tuple[int, float]] = {}
        self.lost: dict[int, tuple[str, float]] = {}
        self.longest_step = 0.0

    def arm(self, event: events.Event) -> None:
        if isinstance(event, events.Fault):
            self._maps.add((event.rank, event.what))
        elif isinstance(event, events.NoPages):
            self._no_pages.add(event.rank)
        elif isinstance(event, events.Slow):
            self._slow[event.rank] += event.seconds
        elif isinstance(event, events.Late):
            self._late[event.rank, event.to_worker] += event.seconds
        else:
            assert isinstance(event, events.Lose), event
            self._lose(event)

    def map_fails(self, rank: int, what: str) -> bool:
        """Whether this mapping fails. One for each operation: by design a second one, on the way
        back, ends the server."""
        worker = self._play.workers[rank]
        epoch = worker.runtime.transformation.order.epoch
        if (rank, what) not in self._maps or epoch in self._faulted:
            return False
        self._maps.discard((rank, what))
        self._faulted.add(epoch)
        self._play.rare.see_map_fault(worker, what)
        return True

    def page_refusal(self, rank: int) -> str | None:
        if rank not in self._no_pages:
            return None
        self._no_pages.discard(rank)
        self._play.counts["refused for pages"] += 1
        return f"rank {rank} has no pages, says the history"

    def extra_seconds(self, rank: int) -> float:
        """Of the next step."""
        seconds = self._slow.pop(rank, 0.0)
        self._play.counts["steps above 20 s"] += seconds > 20
        self.longest_step = max(self.longest_step, seconds)
        return seconds

    def delay(self, rank: int, to_worker: bool) -> float:
        """Of the next message of this worker to the router, or to it."""
        return self._late.pop((rank, to_worker), 0.0)

    # Workers that are lost

    def _lose(self, event: events.Lose) -> None:
        play, rank = self._play, event.rank
        if play.loop.fibers[rank].done:
            return
        self.lost[rank] = event.how, play.loop.now
        play.counts[f"a worker {event.how}"] += 1
        fiber = play.loop.fibers[rank]
        # It never runs again, whatever would wake it.
        fiber.resume = lambda: None
        if event.how == "dies":
            play.loop.after(0.1, lambda: play.end_server(f"worker {rank} died"))
        elif event.how == "stops":
            seconds = play.config.freeze_timeout_s
            play.loop.after(seconds, lambda: play.end_server(f"ranks [{rank}] are frozen"))
        else:
            # SGLang's watchdog in the worker itself ends it if it has rows; else nobody misses it.
            seconds = play.config.watchdog_timeout_s
            play.loop.after(seconds, lambda: play.end_server(f"worker {rank} hangs"))

    def lost_peers(
        self, late: list[int], timeout_s: float, since: float
    ) -> list[tuple[list[int], str]]:
        """Those of `late` that a live transport would give up now, and why."""
        now, found = self._play.loop.now, []
        for rank in late:
            how, at = self.lost.get(rank, ("", now))
            if how == "dies":
                found.append(([rank], "died"))
            elif how == "stops" and now - at > self._play.config.freeze_timeout_s:
                found.append(([rank], "are stopped"))
            elif self._idle_seconds(rank, since) > timeout_s:
                found.append(([rank], f"made no progress for {timeout_s:g} s"))
        return found

    def explains(self, error: BaseException) -> bool:
        """Whether a worker may raise this: it misses those that are lost, and names them."""
        return isinstance(error, PeerLostError) and set(error.ranks) <= self.lost.keys()

    def _idle_seconds(self, rank: int, since: float) -> float:
        assert STAGE.progress is not None
        count, now = int(STAGE.progress[rank]), self._play.loop.now
        seen, at = self._seen.setdefault(rank, (count, now))
        if seen != count:
            self._seen[rank] = count, now
            return 0.0
        return now - max(at, since)
