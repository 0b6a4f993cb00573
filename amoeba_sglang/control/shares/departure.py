"""An anchor's way from PREPARE to the meeting of the block: a refuge for what the order takes."""

from dataclasses import dataclass

import numpy as np

from amoeba_sglang.control.layout.slots import FIRST_LEASED
from amoeba_sglang.control.shares.claims import Claim, Claims
from amoeba_sglang.control.shares.extra import ExtraSlots
from amoeba_sglang.control.shares.moves import Moves
from amoeba_sglang.control.shares.news import SlotNews, no_slots
from amoeba_sglang.control.shares.refuge import Refuge
from amoeba_sglang.control.shares.seat import OwnSlots, Seat

_STEPS_UNTIL_LENT = 3


@dataclass(frozen=True)
class Order:
    """What an anchor must know of a transformation in which its degree changes.

    ranks: in the world, of the workers whose slots stay, the anchor first. vote_tokens,
    change_tokens: output tokens of every long request to have slots for, besides its prompt, from
    the vote to the meeting of the block, and from then on until the change is over.
    """

    ranks: range
    vote_tokens: int
    change_tokens: int


class Departure:
    """Looks for slots that stay for all tokens of long requests that are on others.

    Until it has found them nothing changes for anybody. Then it keeps them, the vote is yes, and
    long requests get only slots that stay, which the vote has counted; no further long request is
    admitted. The tokens move when the order is carried out, so that taking it back restores all.

    `verdict`: None while undecided, "" when there is a refuge, else why there is none.
    """

    def __init__(self, order: Order, seat: Seat, own_slots: int) -> None:
        self._order, self._own_slots = order, own_slots
        chain = seat.chain
        shards = [chain.shard(chain.finest, seat.anchor + n) for n in range(1, len(order.ranks))]
        self._finest, self._shards = chain.finest, np.array(shards, dtype=np.int64)
        self.verdict: str | None = None
        self._own = self._leased = no_slots()
        self._lacked: int | None = None
        self._asked = False

    @property
    def kept(self) -> np.ndarray:
        """Slots that are in nobody's hands, for the tokens that will move; int64."""
        return np.concatenate([self._own, self._leased])

    def stays(self, ids: np.ndarray) -> np.ndarray:
        """Which of these extra slots are still there at every layer during the change; bool."""
        return (ids >= FIRST_LEASED) & np.isin((ids - FIRST_LEASED) % self._finest, self._shards)

    def consider(self, claims: Claims, extra: ExtraSlots, own: OwnSlots) -> SlotNews:
        """Decide, if that is possible yet; what to ask of peers until then."""
        longs = claims.live_long
        if any(claim.ending for claim in longs):
            # They will be gone in a step or two.
            return SlotNews()
        count = sum(len(self._strays(claim)) for claim in longs)
        tokens = self._order.vote_tokens + self._order.change_tokens
        coming = sum(claim.coming(tokens, claims.page) for claim in longs)
        own_room = own.room() - claims.short_rest
        leased_room = int(self.stays(extra.free).sum())
        refuge = Refuge.find(count, coming, own_room, leased_room)
        if not refuge.lacking:
            extra.close(self.stays)
            self._own, self._leased = own.take(refuge.own), extra.take(refuge.leased)
            self.verdict = ""
        elif self._asked:
            # The answer comes with this exchange.
            self._asked = False
        elif len(self._shards) and (self._lacked is None or refuge.lacking < self._lacked):
            self._lacked, self._asked = refuge.lacking, True
            # Every one of them computes a token in each step until the answer has been heard.
            wanted = refuge.lacking + _STEPS_UNTIL_LENT * len(longs)
            return SlotNews(wanted=wanted, lenders=len(self._order.ranks))
        else:
            self.verdict = self._refuse(
                len(longs), *(n * claims.page for n in (count, coming, own_room, leased_room)),
                limit=self._own_slots * claims.page,
            )  # fmt: skip
        return SlotNews()

    def _refuse(
        self, longs: int, stray: int, coming: int, own: int, leased: int, *, limit: int
    ) -> str:
        """The verdict if there is no refuge; numbers of tokens but for `longs`."""
        return (
            f"{longs} running requests longer than one worker's {limit} tokens have {stray} tokens "
            f"on slots that the change takes away and compute up to {coming} more meanwhile, but "
            f"ranks {list(self._order.ranks)} have {max(0, own)} tokens of own slots and {leased} "
            "of leased ones to spare; wait for their end, or abort them"
        )

    def runs_short(self, claims: Claims, extra: ExtraSlots) -> bool:
        """Whether the next step could take slots that the change itself will need, since COMMIT, or
        the meeting after it, is long in coming: the requests must wait for it."""
        tokens = self._order.change_tokens
        needed = sum(claim.coming(tokens, claims.page) for claim in claims.live_long)
        return extra.free_count < needed

    def carry_out(self, claims: Claims, extra: ExtraSlots, own: OwnSlots, moves: Moves) -> None:
        """Let the tokens move to their refuge; what of it nobody needs any more is free again."""
        targets = self.kept
        self.forget()
        for claim in claims.live_long:
            numbers = self._strays(claim)
            if claim.row is not None and len(numbers):
                source, target = claim.row.slots()[numbers], targets[: len(numbers)]
                targets = targets[len(numbers) :]
                assert len(source) == len(target), f"{claim.key} has no refuge"
                claim.row.replace(numbers, target)
                moves.note(source, target)
        self._give_back(targets, extra, own)

    def stand_down(self, extra: ExtraSlots, own: OwnSlots) -> None:
        """The order will not be carried out: all is as if it had never come."""
        self._give_back(self.kept, extra, own)
        self.forget()
        extra.open()

    def forget(self) -> None:
        """Keep nothing any more."""
        self._own = self._leased = no_slots()

    def _give_back(self, slots: np.ndarray, extra: ExtraSlots, own: OwnSlots) -> None:
        is_extra = slots > self._own_slots
        own.put(slots[~is_extra])
        extra.put(slots[is_extra])

    def _strays(self, claim: Claim) -> np.ndarray:
        """Which slots of a row go away, counted from its start; int64."""
        if claim.row is None:
            return no_slots()
        slots = claim.row.slots()
        return np.flatnonzero((slots > self._own_slots) & ~self.stays(slots))
