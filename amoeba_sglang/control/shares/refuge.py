"""What becomes of a long request's slots that a change of its instance takes away."""

from __future__ import annotations

from dataclasses import dataclass


def kept_width(before: int, after: int, anchor: int) -> int:
    """How many workers from the anchor on stay in its instance, at every layer, while that goes
    from degree `before` to `after`: their own slots are the ones that stay. Only the anchor's if it
    is not the first worker of its new instance, since then it cannot lease any more.

    `anchor`: index of the instance's first worker in its group.
    """
    return 1 if anchor % after else min(before, after)


@dataclass(frozen=True)
class Refuge:
    """How many stray slots are replaced by own ones of the anchor, by leased ones, and how many
    are lacking."""

    own: int
    leased: int
    lacking: int

    @classmethod
    def find(cls, strays: int, coming: int, own_room: int, leased_room: int) -> Refuge:
        """`strays`: slots that go away. `coming`: slots that running long requests need
        before the change is over; they go to leased slots, which nobody else can take. The rooms
        count free slots that stay."""
        own = min(strays, max(0, own_room))
        leased = strays - own
        return cls(own, leased, max(0, leased + coming - leased_room))
