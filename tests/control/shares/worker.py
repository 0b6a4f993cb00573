"""One worker that serves requests by its ledger alone, with neither tensors nor SGLang."""

from dataclasses import dataclass, field

import numpy as np

from amoeba_sglang.control.layout.locations import slots_filled
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.shares.claims import Claim, Claims
from amoeba_sglang.control.shares.ledger import Ledger
from amoeba_sglang.control.shares.loans import SPARE_SLOTS
from amoeba_sglang.control.shares.seat import Seat

CHAIN = DegreeChain((1, 2, 4))
OWN = 10
GROWN = {1: 0, 2: 6, 4: 20}
CLIP = 3
"""Output tokens that an estimate counts at most, as upstream's 4,096."""
CHUNK = 4
"""Tokens of a prompt that one step computes at most."""


@dataclass(eq=False)
class Request:
    """`slots` are those of its tokens, `held` how many are computed; the last slot may be open."""

    key: str
    prompt: int
    output: int
    long: bool = False
    slots: list[int] = field(default_factory=list)
    held: int = 0
    fill: int = 0
    state: str = "waiting"
    retracted: int = 0

    def __post_init__(self):
        self.fill = self.prompt

    @property
    def promised(self):
        return self.prompt + self.output


class Row:
    def __init__(self, request):
        self._request = request

    def slots(self):
        return np.array(self._request.slots, dtype=np.int64)

    def replace(self, numbers, targets):
        for number, target in zip(numbers.tolist(), targets.tolist(), strict=True):
            self._request.slots[number] = target


class Worker:
    """One worker: its own pool, its cache of slots that ended requests left, its requests."""

    def __init__(self, contents, index):
        self.contents, self.index, self.page = contents, index, contents.page
        self.ledger = Ledger(OWN)
        self.ledger.share(Seat(CHAIN, 1, index), 0)
        self.free = list(range(1, OWN + 1))
        self.cache: list[int] = []
        self.live: list[Request] = []
        self.waiting: list[Request] = []
        self.full = False

    # OwnSlots

    def room(self):
        return len(self.free) + len(self.cache)

    def take(self, count):
        while len(self.free) < count:
            self.put(np.array([self.cache.pop(0)], dtype=np.int64))
        slots, self.free = self.free[:count], self.free[count:]
        return np.array(slots, dtype=np.int64)

    def put(self, slots):
        self.free += self.ledger.release(slots).tolist()

    # Requests

    def claim(self, request):
        row = Row(request) if request.state == "live" else None
        return Claim(
            request.key, request.held, request.fill, request.promised, request.long,
            row=row,
        )  # fmt: skip

    def claims(self):
        return Claims(
            self.page, [self.claim(r) for r in self.live], [self.claim(r) for r in self.waiting]
        )

    def arrive(self, request):
        request.long = request.promised > (OWN - SPARE_SLOTS) * self.page
        self.waiting.append(request)

    def estimate(self, request):
        """Slots that upstream expects a short request to take still."""
        return self.claim(request).coming(CLIP, self.page)

    def admits(self, request):
        claims, own = self.claims(), self.room()
        rest = self.claim(request).rest(self.page)
        if request.long:
            return rest <= self.ledger.room_for_long(own, claims.short_rest, claims.long_rest)
        room = self.ledger.room_for_short(own, claims.long_rest)
        room -= sum(self.estimate(r) for r in self.live if not r.long)
        return self.estimate(request) + 1 <= room

    def needed(self, request, tokens):
        return slots_filled(request.held + tokens, self.page) - slots_filled(
            request.held, self.page
        )

    def fits(self, wanted):
        extra, own = self.ledger.extra.free_count, self.room()
        for request, tokens in wanted:
            need = self.needed(request, tokens)
            more = min(need, extra) if request.long else 0
            extra, own = extra - more, own - need + more
        return own >= 0

    def compute(self, request, tokens):
        """Give slots to tokens and write them."""
        need = self.needed(request, tokens)
        more = min(need, self.ledger.extra.free_count) if request.long else 0
        request.slots += self.ledger.extra.take(more).tolist() + self.take(need - more).tolist()
        for number in range(request.held, request.held + tokens):
            self.contents.write(self, request.slots[number // self.page], number, request.key)
        request.held += tokens
        request.fill = max(request.fill, request.held)

    def plan(self):
        """One step: admit the first of the queue, or the next chunk, or decode; as upstream."""
        if self.ledger.take_growth():
            self.full = False
        if not self.live:
            self.full = False
        chunked = next((r for r in self.live if r.held < r.fill), None)
        if chunked is None and self.waiting and not self.full:
            if self.admits(self.waiting[0]):
                chunked = self.waiting.pop(0)
                chunked.state = "live"
                self.live.append(chunked)
            else:
                self.full = bool(self.live)
        if chunked is not None:
            for tokens in range(min(CHUNK, chunked.fill - chunked.held), 0, -1):
                if self.fits([(chunked, tokens)]):
                    return self.compute(chunked, tokens)
        self.decode([r for r in self.live if r.held == r.fill])
        return None

    def decode(self, batch):
        if not batch:
            return
        if self.ledger.runs_short(self.claims()):
            return
        batch.sort(key=lambda r: r.held - r.prompt, reverse=True)
        while batch and not self.fits([(r, 1) for r in batch]):
            self.retract(batch.pop())
        for request in batch:
            self.compute(request, 1)

    def retract(self, request):
        self.live.remove(request)
        slots, request.slots = request.slots, []
        request.held, request.state = 0, "waiting"
        request.retracted += 1
        self.put(np.array(slots, dtype=np.int64))
        self.waiting.append(request)
        self.full = False

    def finish(self):
        """Requests that are complete leave, and their tokens on own slots stay in the cache."""
        for request in [r for r in self.live if r.held == r.promised]:
            self.end(request, cache=True)

    def end(self, request, cache=False):
        request.state = "done"
        if request in self.waiting:
            self.waiting.remove(request)
            return
        self.live.remove(request)
        self.full = False
        slots = np.array(request.slots, dtype=np.int64)
        kept = 0
        if cache:
            strays = np.flatnonzero(slots > OWN)
            room = self.ledger.room_to_move(len(self.free))
            kept = int(strays[room]) if len(strays) > room else len(slots)
            strays = strays[:room]
            targets, self.free = self.free[: len(strays)], self.free[len(strays) :]
            self.ledger.moves.note(slots[strays], np.array(targets, dtype=np.int64))
            slots[strays] = targets
            self.cache += slots[:kept].tolist()
            self.contents.cache(self, slots[:kept].tolist(), request.key)
        self.put(slots[kept:])
