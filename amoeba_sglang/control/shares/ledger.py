"""One worker's ledger of the slots of its instance.

Rules, in the order in which they win:

1. A request that lives keeps what it has. A long one is admitted only when all slots of its prompt
   and output are in hand: own ones that no live short request may take, and extra ones that no live
   long request may. So it never needs anything more, and ends.
2. Short requests are admitted by upstream's estimate, to own slots without those that live long
   requests were promised and, at a lender, those that an earlier long request waits for.
3. Whoever runs out nevertheless is retracted and waits, and holds nothing meanwhile: a short one of
   a worker that has lent, or a long one after a change of layouts.
4. Among those who wait for slots of a lender, its own short requests and the anchor's long ones,
   the earlier one goes first: the lender lends nothing that its request wants, and free leases come
   home for it; or the lender admits nobody to slots that the long one wants. Everybody is the
   earliest one day, and those who live end, so everybody ends.
5. A loan is what long requests lack and no more. What none of them wants goes home at once.
6. An order changes nothing before its refuge is certain, and taking it back restores everything.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from amoeba_sglang.control.shares.claims import Claims
from amoeba_sglang.control.shares.departure import Departure, Order
from amoeba_sglang.control.shares.extra import ExtraSlots
from amoeba_sglang.control.shares.loans import Borrower, Lender
from amoeba_sglang.control.shares.moves import Moves
from amoeba_sglang.control.shares.news import SlotNews, no_slots
from amoeba_sglang.control.shares.refuge import kept_width
from amoeba_sglang.control.shares.seat import OwnSlots, Seat


class Ledger:
    """Slots are ints: own ones 1..own_slots, extra ones as ExtraSlots says.

    beyond: slots beyond its own that a request here may count on, which its owner sets. lent: own
    slots that are the anchor's now, int64. All workers of an instance call `offer` and `settle` in
    the same rounds.
    """

    def __init__(self, own_slots: int) -> None:
        self.own_slots, self.beyond = own_slots, 0
        self.extra, self.moves = ExtraSlots(own_slots), Moves()
        self.lent = no_slots()
        # Of the present layout; none before the first transformation and during each.
        self.seat: Seat | None = None
        self._borrower: Borrower | None = None
        self._lender: Lender | None = None
        self._changing = False
        self._departure: Departure | None = None
        self._grew = False

    def clear(self) -> None:
        """Free every slot, as a flush does; what is lent stays away."""
        self.extra.clear()
        self.moves.clear()
        if self._departure is not None:
            self._departure.forget()

    # Answers

    @property
    def is_alone(self) -> bool:
        """Whether the worker has its own slots, all of them and no others."""
        away = len(self.lent) or self.extra.count or self._changing
        return not away and (self.seat is None or self.seat.degree == 1)

    @property
    def admits_long(self) -> bool:
        """Whether further long requests are admitted at all: not from a vote on until a change is
        over."""
        return not self._changing and not self.extra.closed

    def room_for_long(self, own_room: int, short_rest: int, long_rest: int) -> int:
        """Slots that a further long request can have for its whole life.

        own_room: own slots that are free or can be. short_rest, long_rest: slots that live requests
        may still take.
        """
        if not self.admits_long:
            return 0
        recalled = 0 if self._borrower is None else self._borrower.recalled
        return self.extra.room(own_room, short_rest, long_rest) - recalled

    def room_for_short(self, own_room: int, long_rest: int) -> int:
        """Own slots that short requests can have."""
        owed = 0 if self._lender is None else self._lender.owed
        # From a vote on, what long requests take until the change is over is kept by itself.
        promised = max(0, long_rest - self.extra.free_count) if self.admits_long else 0
        return own_room - owed - promised

    def room_to_move(self, own_free: int) -> int:
        """How many own slots the tokens of an ended long request may move to: none from a vote on
        until the change is over, since no worker would copy them in time."""
        return own_free if self.admits_long else 0

    def take_growth(self) -> bool:
        """Whether there is more room than when this was asked last: who was told that memory is
        full must be asked again."""
        grew, self._grew = self._grew, False
        return grew

    def release(self, slots: np.ndarray) -> np.ndarray:
        """Nobody uses these any more; returns the own ones among them. Copies into them are
        cancelled."""
        slots = np.concatenate([slots, self.moves.cancel(slots)])
        is_extra = slots > self.own_slots
        self.extra.put(slots[is_extra])
        self._grew |= bool(is_extra.any())
        return slots[~is_extra]

    # Layouts

    def share(self, seat: Seat, grown: int) -> None:
        """Begin a layout. The anchor has `grown` grown slots, and may lease its peers' own ones."""
        self.seat, self._changing = seat, False
        self.extra.grow(0 if seat.place else grown)
        if seat.place:
            self._lender = Lender(seat)
        else:
            self._borrower = Borrower(seat, self.extra, self.own_slots)
        self._grew = True

    def leave(self, after: int, own: OwnSlots) -> None:
        """End a layout, with its leases that do not outlast a change to degree `after`: nobody uses
        them any more."""
        assert not len(self.moves), f"{len(self.moves)} slots have not been copied"
        seat, extra = self.seat, self.extra
        if seat is not None:
            width = kept_width(seat.degree, after, seat.anchor)
            if seat.place >= width:
                home, self.lent = self.lent, no_slots()
                own.put(home)
            elif not seat.place:
                kept = np.zeros(len(extra.leased), dtype=bool)
                for place in range(1, width):
                    kept |= seat.is_of(place, extra.leased)
                extra.end_leases(extra.leased[~kept])
        extra.open()
        extra.grow(0)
        self.seat = self._borrower = self._lender = self._departure = None
        self._changing = True

    # Orders

    def prepare(self, order: Order, claims: Claims, own: OwnSlots) -> None:
        """Look for a refuge; `verdict` says whether there is one. At an anchor only."""
        assert self.seat is not None and not self.seat.place
        self._departure = Departure(order, self.seat, self.own_slots)
        if not claims.live_long:
            self._departure.consider(claims, self.extra, own)

    @property
    def verdict(self) -> str | None:
        """Of what `prepare` began: None while undecided, "" for yes, else why not."""
        return "" if self._departure is None else self._departure.verdict

    @property
    def has_voted(self) -> bool:
        """Whether the vote for an order was yes, and it is neither taken back nor carried out."""
        return self._departure is not None and self._departure.verdict == ""

    def runs_short(self, claims: Claims) -> bool:
        """Whether a step now could use up, before a change begins, what that will need."""
        departure = self._departure
        return (
            departure is not None
            and departure.verdict == ""
            and departure.runs_short(claims, self.extra)
        )

    @property
    def kept(self) -> np.ndarray:
        """Slots that are in nobody's hands, for tokens that an order makes move; int64."""
        return no_slots() if self._departure is None else self._departure.kept

    def stand_down(self, own: OwnSlots) -> None:
        """Inverse of `prepare`: the order will not be carried out."""
        if self._departure is not None:
            self._departure.stand_down(self.extra, own)
            self._departure, self._grew = None, True

    # Rounds

    def idles(self, any_long: bool) -> bool:
        """Whether a round would be about nothing; `any_long`: whether a long request is here."""
        if self._lender is not None:
            return not self._lender.is_asked and not len(self.lent)
        if self._borrower is None:
            return True
        busy = any_long or self._departure is not None
        return not (busy or len(self.extra.leased) or len(self.moves))

    def has_news(self, claims: Claims, own: OwnSlots) -> bool:
        """Whether peers must hear of this worker's slots although it has no rows to run.

        Nobody falls asleep while slots are away from home: an idle scheduler counts its slots.
        """
        if self._lender is not None:
            # It lends in this round, even if whoever wanted the slots has just been aborted.
            return self._lender.is_asked
        if self._borrower is None:
            return False
        if len(self.extra.leased) or len(self.moves):
            return True
        if self._departure is not None:
            return self._departure.verdict is None or len(self._departure.kept) > 0
        return self._borrower.lacking(claims, own.room()) > 0

    def offer(self, claims: Claims, own: OwnSlots, leaving: bool = False) -> SlotNews:
        """What the next step record says; slots change hands now.

        leaving: the record says that this worker is ready to leave for a committed order.
        """
        if self._lender is not None:
            news = self._lender.offer(claims, own, len(self.lent))
            self.lent = np.concatenate([self.lent, news.lent])
            return news
        if self._borrower is None:
            return SlotNews()
        departure = self._departure
        if departure is None:
            news = self._borrower.offer(claims, own.room())
        elif departure.verdict is None:
            news = departure.consider(claims, self.extra, own)
        else:
            news = SlotNews()
        if departure is not None and leaving:
            departure.carry_out(claims, self.extra, own, self.moves)
        return replace(news, moved_from=self.moves.source, moved_to=self.moves.target)

    def settle(self, news: Sequence[SlotNews], own: OwnSlots) -> None:
        """Carry out what the records of one round say; `news`: of all workers of the instance."""
        if self._lender is not None:
            owed = self._lender.owed
            home = self._lender.settle(news)
            self.lent = self.lent[~np.isin(self.lent, home)]
            own.put(home)
            self._grew |= len(home) > 0 or self._lender.owed < owed
        elif self._borrower is not None:
            self._grew |= self._borrower.settle(news)
