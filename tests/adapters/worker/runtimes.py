"""Workers of one group with real protocol, ledger and transformation, on threads of this process.

What is not there: upstream's scheduler, sockets, and a device; steps are noted and compute nothing.
"""

from __future__ import annotations

import itertools
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from sglang.srt.mem_cache.memory_pool import ReqToTokenPool

from amoeba_sglang.adapters.emulated.executor import EmulatedLayer
from amoeba_sglang.adapters.messages import TransformOrder
from amoeba_sglang.adapters.model.kv_allocator import ElasticAllocator
from amoeba_sglang.adapters.worker.connections import Groups
from amoeba_sglang.adapters.worker.elastic_runtime import ElasticRuntime
from amoeba_sglang.adapters.worker.requests import Requests
from amoeba_sglang.adapters.worker.turn import Turn
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.router.limits import Capacity
from amoeba_sglang.control.worker.mirror import RowMirror
from amoeba_sglang.planes.contract import Plane
from amoeba_sglang.planes.step_executor import StepExecutor
from tests.adapters.model.allocators import SIZE, Tree, request
from tests.adapters.threads import AtOnce, Circle, Turns

LAYERS, GROWN = 4, 6


class Clock:
    """A tick passes whenever somebody looks."""

    def __init__(self):
        self.time, self.slept = 100.0, []

    def now(self):
        self.time += 0.001
        return self.time

    wall = now

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds


class Executor(StepExecutor):
    """Notes (degree, first, end) of every segment of a step."""

    def __init__(self, layers, index, finest):
        super().__init__(layers, index)
        self.mirrors = [RowMirror() for _ in range(finest)]
        self.steps, self.synchronized = [], 0

    def forward(self, own):
        if self._expected is not None:
            self.follow()

    def follow(self):
        _, move = self._take_expected()
        self.steps.append(list(self._segments(move)))

    def synchronize(self):
        self.synchronized += 1


class NotingPlane(Plane):
    """Notes what it is told; receives 10 bytes of KV and 5 of weights a layer. `why_not`: what it
    answers to the next question."""

    def __init__(self, executor, grown):
        super().__init__(executor, grown)
        self.why_not, self.calls, self.copied = None, [], []
        self._ticks = itertools.count()

    def refusal(self, before, after):
        return self.why_not

    def shrink(self):
        self.calls.append("shrink")

    def grow(self, degree):
        self.calls.append(("grow", degree))

    def move_weights(self, layers, degree):
        return 5 * len(layers)

    def move_units(self, layers, moves, live):
        return 10 * len(layers)

    def copy_slots(self, source, target):
        self.copied.append((source.tolist(), target.tolist()))

    def copy_seconds(self):
        return next(self._ticks)

    def rest(self):
        self.calls.append("rest")


class Bell:
    by_rank: dict[int, Bell] = {}

    def __init__(self, rank):
        self.tags = set()
        Bell.by_rank[rank] = self

    def ring(self, ranks, tag):
        for rank in ranks:
            Bell.by_rank[rank].tags.add(tag)

    def rung(self, tag):
        tags, self.tags = self.tags, set()
        return tag in tags


class Surroundings:
    """`circles`: by width of a block, the transports of this worker for steps and for moves."""

    def __init__(self, words, circles):
        self.clock, self._words, self._circles = Clock(), iter(words), circles

    def share_words(self):
        return next(self._words)

    def connect(self, chain, progress):
        steps = {width: pair[0] for width, pair in self._circles.items()}
        moving = {width: (None, pair[1]) for width, pair in self._circles.items()}
        return Groups(steps, moving)

    def plane(self, scheduler, rank, groups):
        chain = scheduler.chain
        layers = [EmulatedLayer() for _ in range(LAYERS)]
        grown = {degree: 0 if degree == 1 else GROWN * (degree - 1) for degree in chain.degrees}
        return NotingPlane(Executor(layers, rank % chain.finest, chain.finest), grown)

    def bell(self, rank):
        return Bell(rank)

    def helper(self):
        return AtOnce()


class Batch(SimpleNamespace):
    """Of upstream's, with one row of each of `reqs`; `new`: tokens that are new, one if None."""

    def __init__(self, reqs, new=None):
        lengths = [req.kv.kv_allocated_len for req in reqs]
        super().__init__(
            reqs=reqs,
            req_pool_indices_cpu=torch.tensor([req.kv.req_pool_idx for req in reqs]),
            seq_lens_cpu=torch.tensor(lengths),
            extend_lens=new,
            forward_mode=SimpleNamespace(is_extend=lambda: new is not None),
            return_logprob=False,
            is_prefill_only=False,
        )


class Scheduler:
    """What an ElasticRuntime and a Turn use of one; `sent`: reports, `noted`: everything else."""

    forwards = nullcontext

    def __init__(self, rank, config, page, surroundings):
        self.rank, self.sent, self.noted = rank, [], []
        self.chain = DegreeChain(config.degrees)
        size = SIZE * page
        self.token_to_kv_pool_allocator = ElasticAllocator(
            size, page, torch.float32, "cpu", None, False
        )
        self.tree_cache = Tree(self.token_to_kv_pool_allocator)
        self.req_to_token_pool = ReqToTokenPool(8, 8 * size, "cpu", False)
        pool = SimpleNamespace(device="cpu")
        self.tp_worker = SimpleNamespace(model_runner=SimpleNamespace(token_to_kv_pool=pool))
        self.waiting_queue, self.result_queue = [], []
        self.running_batch = SimpleNamespace(reqs=[])
        self.last_batch = self.chunked_req = self._pending_chunked_abort_req = None
        self.grammar_manager = SimpleNamespace(grammar_queue=[])
        grown = {1: 0, 2: GROWN, 4: 3 * GROWN}
        self.capacity = Capacity(size, 1000, {d: n * page for d, n in grown.items()}, page)
        self.link = SimpleNamespace(send=self.sent.append)
        self.runtime = ElasticRuntime(self, config, rank, surroundings)

    def __getattr__(self, name):
        """What a Turn tells its scheduler beside: reports."""
        told = "report_progress report_steps show_capacity"
        if name not in [*told.split(), "follow_capacity"]:
            raise AttributeError(name)
        return lambda *args, **named: self.noted.append((name, *args, *named.values()))

    def told(self, name):
        return [entry[1:] for entry in self.noted if entry[0] == name]

    def admit(self, tokens, prompt=1):
        """A request that holds the KV of its prompt here now."""
        req = request(tokens, prompt)
        req.kv.holds_kv = False
        allocator, pool = self.token_to_kv_pool_allocator, self.req_to_token_pool
        pool.alloc([req])
        found = allocator.alloc_for_requests(self.tree_cache, [req], [prompt], [-1])
        assert found is not None
        pool.req_to_token[req.kv.req_pool_idx, :prompt] = found.int()
        req.kv.kv_allocated_len, req.kv.holds_kv = prompt, True
        self.running_batch.reqs.append(req)
        return req

    def end(self, req):
        """It is complete; nothing of it stays in the cache."""
        pool, row = self.req_to_token_pool, req.kv.req_pool_idx
        held = pool.req_to_token[row, : req.kv.kv_allocated_len].long()
        self.token_to_kv_pool_allocator.free(held)
        pool.free_slots.append(row)
        self.running_batch.reqs.remove(req)
        req.kv.holds_kv = False

    def requests(self):
        return Requests(self, (None, None))

    def hear(self, order):
        protocol = self.runtime.protocol
        Turn(self).carry_out(protocol.receive(order, self.runtime.clock.now()))

    def turn(self, batch=None):
        """One planned step."""
        Turn(self, batch, self.running_batch).carry_out(
            self.runtime.protocol.turn(batch is not None)
        )
        if batch is not None:
            self.runtime.executor.forward(batch)


class Workers:
    """All of a group of `degrees`."""

    def __init__(self, degrees=(1, 2), page=1):
        count, self.turns, self.epoch = degrees[-1], Turns(), 0
        config = AmoebaConfig(count, 1, degrees, LAYERS, 100, "/run", layers_per_step=1)
        words = [np.zeros(count, dtype=np.int64) for _ in range(2)]
        self.progress = words[0]
        circles: list[dict[int, Any]] = [{} for _ in range(count)]
        for width in degrees[1:]:
            for first in range(0, count, width):
                pairs = zip(*(Circle.of(width, self.turns) for _ in range(2)), strict=True)
                for place, pair in enumerate(pairs):
                    circles[first + place][width] = pair
        self.schedulers = [
            Scheduler(rank, config, page, Surroundings(words, circles[rank]))
            for rank in range(count)
        ]

    def __getitem__(self, rank):
        return self.schedulers[rank]

    def hear(self, phase, before, after):
        """An order reaches all workers; a PREPARE begins a new one."""
        self.epoch += phase == "prepare"
        for scheduler in self.schedulers:
            scheduler.hear(
                TransformOrder(
                    phase=phase,
                    operation_id="op",
                    epoch=self.epoch,
                    ranks=list(range(len(self.schedulers))),
                    before=list(before),
                    after=list(after),
                )
            )

    def turn(self, *batches):
        """One planned step of everybody, of these batches by rank; who has one wakes the others."""
        batches = batches or [None] * len(self.schedulers)
        pairs = sorted(zip(self.schedulers, batches, strict=True), key=lambda pair: not pair[1])
        self.turns.run([lambda s=s, b=b: s.turn(b) for s, b in pairs])

    def change(self, before, after):
        """A whole order; how many turns it took from its COMMIT on."""
        self.hear("prepare", before, after)
        self.hear("commit", before, after)
        turns, degrees = 0, None
        while degrees != list(after):
            self.turn()
            turns += 1
            assert turns < 20
            changing = any(s.runtime.transformation for s in self.schedulers)
            degrees = None if changing else [s.runtime.degree for s in self.schedulers]
        return turns
