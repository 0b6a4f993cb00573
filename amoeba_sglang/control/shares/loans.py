"""Loans between the workers of one instance: what the anchor asks for, lenders give, and returns.

Every worker hears all records of a round in the same step, so both sides agree who has a slot.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from amoeba_sglang.control.shares.claims import Claim, Claims
from amoeba_sglang.control.shares.extra import ExtraSlots
from amoeba_sglang.control.shares.news import LIVE, NOBODY, SlotNews, no_slots
from amoeba_sglang.control.shares.seat import OwnSlots, Seat

# SGLang admits a request only when more than its tokens, its prompt rounded up to whole slots, and
# one spare slot are free.
SPARE_SLOTS = 2


@dataclass
class Waiter:
    """Who waits first at a worker, and since which round."""

    key: str = ""
    since: int = NOBODY

    def update(self, first: Claim | None, round_number: int) -> None:
        if first is None:
            self.key, self.since = "", NOBODY
        elif self.since == NOBODY or self.key != first.key:
            self.key, self.since = first.key, round_number


class Borrower:
    """The anchor's side: it asks for what its long requests lack, and returns what none of them
    wants or what an earlier request of the lender's waits for."""

    def __init__(self, seat: Seat, extra: ExtraSlots, own_slots: int) -> None:
        self._seat, self._extra = seat, extra
        self._leasable = (seat.degree - 1) * own_slots
        self._round, self._waiter = 0, Waiter()
        # Whether a live request lacks slots: it goes before all that wait.
        self._urgent = False
        # By place of the lender.
        self._recalls: list[tuple[int, SlotNews]] = []

    @property
    def _since(self) -> int:
        return LIVE if self._urgent else self._waiter.since

    @property
    def recalled(self) -> int:
        """Free leases that go home to requests which waited before any long one here."""
        free = self._extra.free_leased
        return sum(
            min(news.wanted, int(self._seat.is_of(place, free).sum()))
            for place, news in self._recalls
            if news.since < self._since
        )

    def lacking(self, claims: Claims, own_room: int) -> int:
        """Slots that live long requests and the first waiting one lack, and peers could lend."""
        room = self._extra.room(own_room, claims.short_rest)
        return max(0, min(self._wanted(claims) - room, self._leasable - len(self._extra.leased)))

    def _wanted(self, claims: Claims) -> int:
        first = claims.first(long=True)
        return claims.long_rest + (0 if first is None else first.rest(claims.page))

    def offer(self, claims: Claims, own_room: int) -> SlotNews:
        """What the next record says; leases end now."""
        self._waiter.update(claims.first(long=True), self._round)
        room = self._extra.room(own_room, claims.short_rest)
        self._urgent = claims.long_rest > room
        returned = self._choose_returned(room - self._wanted(claims), room - claims.long_rest)
        self._extra.end_leases(returned)
        return SlotNews(self.lacking(claims, own_room), self._since, returned=returned)

    def _choose_returned(self, unwanted: int, unpromised: int) -> np.ndarray:
        """Free leases: `unwanted` is how many none of the long requests here wants, and
        `unpromised` how many those that live do not."""
        chosen, free = no_slots(), self._extra.free_leased
        for place, news in self._recalls:
            limit = unpromised if news.since < self._since else unwanted
            count = max(0, min(news.wanted, limit - len(chosen)))
            chosen = np.concatenate([chosen, free[self._seat.is_of(place, free)][:count]])
        others = free[~np.isin(free, chosen)]
        return np.concatenate([chosen, others[: max(0, unwanted - len(chosen))]])

    def settle(self, news: Sequence[SlotNews]) -> bool:
        """Take what is lent in this round; whether it is anything."""
        self._round += 1
        self._recalls = [(place, one) for place, one in enumerate(news) if place and one.wanted]
        ids = np.concatenate([self._seat.ids_of(place, one.lent) for place, one in enumerate(news)])
        if len(ids):
            self._extra.lease(ids)
        return len(ids) > 0


class Lender:
    """A peer's side: it lends own slots that none of its live requests may take, and wants them
    back for those that wait.

    `owed`: slots that it keeps free for the anchor, which has waited longer.
    """

    def __init__(self, seat: Seat) -> None:
        self._seat = seat
        self._round, self._waiter = 0, Waiter()
        # What the anchor lacks still, and for whom.
        self._ask, self._unmet = SlotNews(), 0
        self.owed = 0

    @property
    def is_asked(self) -> bool:
        return self._unmet > 0

    def offer(self, claims: Claims, own: OwnSlots, lent: int) -> SlotNews:
        """What the next record says; slots are parted with now. `lent`: how many are away."""
        first = claims.waiting[0] if claims.waiting else None
        need = 0 if first is None else first.rest(claims.page) + SPARE_SLOTS
        room = own.room() - claims.short_rest
        self._waiter.update(first if need > room else None, self._round)
        due, goes_first = self._due(), self._waiter.since < self._ask.since
        slots = own.take(max(0, min(due, room - need if goes_first else room)))
        self.owed = 0 if goes_first else due - len(slots)
        recall = min(lent + len(slots), need - room + len(slots)) if need else 0
        return SlotNews(max(0, recall), self._waiter.since, lent=slots)

    def settle(self, news: Sequence[SlotNews]) -> np.ndarray:
        """Hear what the anchor lacks; returns the local slots that come home in this round."""
        self._round += 1
        anchor = self._ask = news[0]
        # The anchor did not know yet of what was lent in the same round.
        self._unmet = max(0, anchor.wanted - sum(len(one.lent) for one in news))
        self.owed = 0 if self._waiter.since < anchor.since else self._due()
        mine = self._seat.is_of(self._seat.place, anchor.returned)
        return self._seat.chain.lent_slots(anchor.returned[mine])

    def _due(self) -> int:
        """This lender's part of what the anchor lacks still. The odd ones go round, since not
        everybody has some."""
        lenders = (self._ask.lenders or self._seat.degree) - 1
        number = self._seat.place - 1
        if number >= lenders:
            return 0
        even, odd = divmod(self._unmet, lenders)
        return even + ((number + self._round) % lenders < odd)
