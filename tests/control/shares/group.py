"""A group of workers that serve requests by their ledgers alone, with neither tensors nor SGLang.

Every slot holds who wrote it, so that a late copy, or a second owner, shows when it is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from amoeba_sglang.control.layout.locations import slots_filled
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.shares.claims import Claim, Claims
from amoeba_sglang.control.shares.departure import Order
from amoeba_sglang.control.shares.ledger import Ledger
from amoeba_sglang.control.shares.loans import SPARE_SLOTS
from amoeba_sglang.control.shares.refuge import kept_width
from amoeba_sglang.control.shares.seat import Seat

CHAIN = DegreeChain((1, 2, 4))
OWN = 10
GROWN = {1: 0, 2: 6, 4: 20}
CLIP = 3
"""Output tokens that an estimate counts at most, as upstream's 4,096."""
CHUNK = 4
"""Tokens of a prompt that one step computes at most."""
LAYERS = 2


@dataclass(eq=False)
class Request:
    """`slots` are those of its tokens, `done` how many are computed; the last slot may be open."""

    key: str
    prompt: int
    output: int
    long: bool = False
    slots: list[int] = field(default_factory=list)
    held: int = 0
    fill: int = 0
    cached: int = 0
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

    def __init__(self, group, index):
        self.group, self.index, self.page = group, index, group.page
        self.ledger = Ledger(OWN)
        self.ledger.share(Seat(CHAIN, 1, index), 0, 0)
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
            self.group.write(self, request.slots[number // self.page], number, request.key)
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
            for number, slot in enumerate(slots[:kept].tolist()):
                self.group.cached[self.index, slot] = (number, request.key)
        self.put(slots[kept:])


class Group:
    """Four workers, their instances, and one order at a time."""

    def __init__(self, page=1):
        self.page = page
        # By (home worker or instance's first, joint slot): what its tokens are.
        self.memory: dict[tuple[int, int], dict[int, str]] = {}
        self.cached: dict[tuple[int, int], tuple[int, str]] = {}
        self.workers = [Worker(self, index) for index in range(4)]
        self.degrees = [1, 1, 1, 1]
        self.order = None
        self.phase, self.left = "", 0
        self.requests: list[Request] = []
        self.outcomes: list[str] = []

    # Memory, by finest joint slot: the same for every degree.

    def address(self, worker, slot):
        """The one name of a slot of a worker: (home, local slot), or the anchor's grown slot."""
        if slot <= OWN:
            return worker.index, slot
        if slot < 1 << 23:
            return worker.index, slot
        base = 0
        for home in range(4):
            if CHAIN.leased_from(home, np.array([slot]))[0]:
                base = home
        return base, int(CHAIN.lent_slots(np.array([slot]))[0])

    def write(self, worker, slot, number, key):
        place, offset = self.address(worker, slot), number % self.page
        kept = self.memory.get(place, {}) if offset else {}
        self.memory[place] = {**kept, offset: (number, key)}
        self.cached.pop((worker.index, slot), None)

    def check(self):
        """Every slot has one owner and holds what its owner wrote."""
        for index, worker in enumerate(self.workers):
            ledger = worker.ledger
            owned = [
                *worker.free, *worker.cache, *ledger.lent.tolist(), *ledger.kept.tolist(),
                *ledger.extra.free.tolist(), *ledger.extra.withheld.tolist(),
                *ledger.moves.source.tolist(), *(s for r in worker.live for s in r.slots),
            ]  # fmt: skip
            everything = [
                *range(1, OWN + ledger.extra.grown + 1), *ledger.extra.leased.tolist()
            ]  # fmt: skip
            assert sorted(owned) == sorted(everything), f"worker {index}"
            pending = dict(
                zip(ledger.moves.target.tolist(), ledger.moves.source.tolist(), strict=True)
            )
            for request in worker.live:
                for number in range(request.held):
                    slot = request.slots[number // self.page]
                    slot = pending.get(slot, slot)
                    found = self.memory[self.address(worker, slot)][number % self.page]
                    assert found == (number, request.key), (found, number, request.key)
            for slot in worker.cache:
                number, key = self.cached[index, slot]
                place = self.address(worker, pending.get(slot, slot))
                assert {k for _, k in self.memory[place].values()} == {key}
        lent = sum(len(w.ledger.lent) for w in self.workers)
        assert lent == sum(len(w.ledger.extra.leased) for w in self.workers)

    # Steps

    def submit(self, index, prompt, output):
        """A request for a worker, if it promises to hold it."""
        worker = self.workers[index]
        most = (OWN + worker.ledger.beyond - SPARE_SLOTS) * self.page
        if self.order is not None:
            _, _, before, after = self.order
            most = min(most, self.most(index, before), self.most(index, after))
        if prompt + output > most:
            return None
        request = Request(f"r{len(self.requests)}", prompt, output)
        self.requests.append(request)
        worker.arrive(request)
        return request

    def most(self, index, degrees):
        degree = degrees[index]
        slots = OWN + ((degree - 1) * OWN + GROWN[degree] if index % degree == 0 else 0)
        return (slots - SPARE_SLOTS) * self.page

    def beyond(self, index, degree):
        return (degree - 1) * OWN + GROWN[degree] if index % degree == 0 else 0

    def step(self):
        """All workers plan and compute one step, exchange records, and the order gets on."""
        for worker in self.workers:
            worker.plan()
        self.check()
        self.exchange(leaving=self.phase == "commit")
        self.proceed()
        for worker in self.workers:
            worker.finish()
        self.check()

    def exchange(self, leaving):
        first = 0
        while first < 4:
            seat = self.workers[first].ledger.seat
            width = 1 if seat is None else seat.degree
            members = self.workers[first : first + width]
            first += width
            if seat is None:
                continue
            news = []
            for worker in members:
                any_long = any(r.long for r in (*worker.live, *worker.waiting))
                if worker.ledger.idles(any_long):
                    worker.ledger.offer(Claims(self.page), worker, leaving)
                news.append(worker.ledger.offer(worker.claims(), worker, leaving))
            for worker in members:
                worker.ledger.settle(news, worker)
            self.copy(members[0], news[0])

    def copy(self, anchor, news):
        for source, target in zip(news.moved_from.tolist(), news.moved_to.tolist(), strict=True):
            source, target = self.address(anchor, source), self.address(anchor, target)
            self.memory[target] = dict(self.memory[source])
        anchor.put(anchor.ledger.moves.finish())

    # Orders

    def prepare(self, first, width, degree):
        """PREPARE to a block; whether it is one."""
        before = list(self.degrees)
        after = [
            degree if first <= index < first + width else old for index, old in enumerate(before)
        ]
        block = before[first : first + width]
        if self.order is not None or before == after or max(*block, degree) != width:
            return False
        self.order, self.phase = (first, width, before, after), "prepare"
        for index in range(first, first + width):
            worker, kept = self.workers[index], kept_width(before[index], degree, index)
            if before[index] != degree and index % before[index] == 0:
                order = Order(range(index, index + kept), LAYERS, 2 * LAYERS)
                worker.ledger.prepare(order, worker.claims(), worker)
        return True

    def misfit(self):
        first, width, _, after = self.order
        return any(
            r.promised > self.most(index, after)
            for index in range(first, first + width)
            for r in (*self.workers[index].live, *self.workers[index].waiting)
        )

    def abort(self):
        first, width, *_ = self.order
        for worker in self.workers[first : first + width]:
            worker.ledger.stand_down(worker)
        self.order, self.phase = None, ""

    def proceed(self):
        if self.order is None:
            return
        first, width, _, after = self.order
        members = self.workers[first : first + width]
        if self.phase == "prepare":
            verdicts = [worker.ledger.verdict for worker in members]
            if self.misfit() or any(verdicts):
                self.outcomes.append("refused")
                self.abort()
            elif None not in verdicts:
                self.phase = "commit"
        elif self.phase == "commit":
            for worker in members:
                beyond = min(self.beyond(worker.index, d[worker.index]) for d in self.order[2:])
                if self.degrees[worker.index] != after[worker.index]:
                    worker.ledger.leave(after[worker.index], beyond, worker)
            self.phase, self.left = "change", 2 * LAYERS
        else:
            self.left -= 1
            if not self.left:
                for worker in members:
                    index = worker.index
                    degree = after[index]
                    seat = Seat(CHAIN, degree, index)
                    worker.ledger.share(seat, GROWN[degree], self.beyond(index, degree))
                self.degrees, self.order, self.phase = after, None, ""
                self.outcomes.append("done")

    def merge(self, first, degree):
        """Change an idle block at once, for tests of one layout."""
        assert self.prepare(first, max(degree, *self.degrees[first : first + degree]), degree)
        while self.order is not None:
            self.step()

    def settle(self, steps=2000):
        """Step until every request has ended; how many steps that took."""
        for count in range(steps):
            if all(r.state == "done" for r in self.requests) and self.order is None:
                return count
            self.step()
        left = [r for r in self.requests if r.state != "done"]
        raise AssertionError(f"{left} never end")
