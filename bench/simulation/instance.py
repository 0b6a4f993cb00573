"""The instances that workers step in, and how these fill their steps."""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

from bench.simulation.mechanisms import MAX_ROWS, Mechanism
from bench.simulation.worker import Request, Worker


@dataclass(frozen=True)
class Batching:
    """How a worker fills a step. mixed: it decodes beside its own prefill chunk; else it decodes
    only when it has nothing to prefill, as upstream does. chunk_tokens: the most prompt tokens of a
    worker in a step; step_s: chunks are cut so that a step beside decoding rows takes no longer.
    ahead: a step is launched when the one before it begins, as upstream does on a GPU, so it lacks
    who arrives later; else, as on the CPU, it runs as it is launched, and its results are handed
    out behind the step after it."""

    mixed: bool = True
    chunk_tokens: int = 8192
    step_s: float = 0.085
    ahead: bool = True


# A chunk gets this share of `step_s` at least, and so many times it when nobody decodes.
_LEAST_SHARE, _ALONE = 0.15, 3.0


class Instance:
    """Workers that step together. `event`: when its step ends, or infinity; `epoch`: of that event,
    and `announced`: the last that the clock was told; `stopping`: it must begin no other step."""

    def __init__(
        self,
        workers: list[Worker],
        mechanism: Mechanism,
        batching: Batching,
        base: int,
        finished: Callable[[Request, float], None],
    ) -> None:
        self.workers, self.degree = workers, len(workers)
        self.price = mechanism.prices[self.degree]
        self.tokens = mechanism.tokens[self.degree]
        self.batching, self._finished, self._mechanism = batching, finished, mechanism
        self.set_base(base)
        self.epoch, self.announced, self.event, self.stopping = 0, 0, math.inf, False
        self._chunks: list[tuple[Worker, Request, int]] | None = None
        self._decoding: list[Worker] = []
        # A run of decode steps: begin, how many, the first one's seconds, what each adds.
        self._leap: tuple[float, int, float, float] | None = None
        self._admit = True
        # When the last step began and when it ended.
        self._last = -math.inf, -math.inf
        self._start = 0.0

    def set_base(self, base: int) -> None:
        """Requests that the base degree holds leave the rest to longer ones, so splits can come."""
        self.block = min(base, self.degree)
        self.block_tokens = self._mechanism.tokens[self.block]
        for worker in self.workers:
            worker.used_long = sum(r.tokens for r in worker.running() if r.degree > self.block)

    @property
    def busy(self) -> bool:
        return self.event < math.inf

    def arrive(self, now: float) -> None:
        """A request has joined a worker."""
        self._admit = True
        if self._leap is not None:
            self._cut_leap(now)

    def stop(self, now: float) -> None:
        """Begin no step after the one that runs."""
        self.stopping = True
        if self._leap is not None:
            self._cut_leap(now)

    def start_step(self, now: float) -> None:
        """Begin a step, or a run of decode steps, if there is work."""
        filled, ended = self._last
        late = self._admit and self._admit_requests(filled if ended == now else now)
        if not any(worker.rows or worker.prefilling for worker in self.workers):
            late = self._go_idle(now)
        self.epoch += 1
        self._start, self.event = now, math.inf
        prefilling = [worker for worker in self.workers if worker.prefilling]
        rows = context = 0
        decoding = []
        for worker in self.workers:
            if worker.rows and (self.batching.mixed or not worker.prefilling):
                decoding.append(worker)
                rows += len(worker.rows)
                context += worker.context
        self._decoding = decoding
        if prefilling:
            self._start_chunks(prefilling, rows, context, now)
        elif decoding:
            steps = min(worker.rows[0][0] - worker.count for worker in decoding)
            if late or any(worker.begun or worker.ended for worker in self.workers):
                steps = 1
            first = self.price.seconds(rows, 0, context)
            growth = self.price.context * rows
            self._leap = now, steps, first, growth
            self.event = self._end_of(steps)

    def end_step(self) -> None:
        """Take what the step that ends at `event` has computed."""
        now, self.event = self.event, math.inf
        steps = 1
        if self._leap is not None:
            steps = self._leap[1]
            self._start = self._end_of(steps - 1)
            self._leap = None
        if self.batching.ahead:
            self._last = self._start, now
        else:
            self._hand_out(now)
        for worker in self._decoding:
            worker.count += steps
            worker.context += steps * len(worker.rows)
            while worker.rows and worker.rows[0][0] <= worker.count:
                request = heapq.heappop(worker.rows)[2]
                worker.context -= request.tokens - 1
                worker.ended.append(request)
        if self._chunks is not None:
            for worker, request, tokens in self._chunks:
                self._take_chunk(worker, request, tokens)
            self._chunks = None
        if self.batching.ahead or self.stopping:
            self._hand_out(now)

    def _take_chunk(self, worker: Worker, request: Request, tokens: int) -> None:
        request.left -= tokens
        request.computed += tokens
        worker.to_prefill -= tokens
        if request.left:
            return
        worker.prefilling.popleft()
        worker.prompts -= request.prompt
        worker.begun.append(request)
        written = max(0, request.computed - request.prompt) + 1
        if written >= request.output:
            worker.ended.append(request)
            return
        at = worker.count + request.output - written
        heapq.heappush(worker.rows, (at, request.number, request))
        worker.context += request.prompt + written - 1

    def _hand_out(self, now: float) -> None:
        """The results that are there; who has ended leaves its KV."""
        for worker in self.workers:
            for request in worker.begun:
                # One that was computed again has had its first token.
                request.first = now if request.first < 0 else request.first
            worker.begun.clear()
            for request in worker.ended:
                request.end = now
                worker.used -= request.tokens
                if request.degree > self.block:
                    worker.used_long -= request.tokens
                self._admit = True
                self._finished(request, now)
            worker.ended.clear()

    def _go_idle(self, now: float) -> bool:
        """Nothing is left to run, so nobody waits for a step."""
        self._hand_out(now)
        return self._admit and self._admit_requests(now)

    def _admit_requests(self, until: float) -> bool:
        """First come, first served at every worker, as far as the KV reaches, of those that had
        joined it by then. Whether somebody came later."""
        self._admit = False
        total = sum(worker.used for worker in self.workers)
        for first in range(0, self.degree, self.block):
            block = self.workers[first : first + self.block]
            own = sum(worker.used - worker.used_long for worker in block)
            for worker in block:
                while worker.queue:
                    request = worker.queue[0]
                    need, long = request.tokens, request.degree > self.block
                    if request.joined > until:
                        self._admit = True
                        break
                    if (
                        total + need > self.tokens
                        or (not long and own + need > self.block_tokens)
                        or len(worker.rows) + len(worker.prefilling) >= MAX_ROWS
                    ):
                        break
                    worker.prefilling.append(worker.queue.popleft())
                    worker.used += need
                    total += need
                    if long:
                        worker.used_long += need
                    else:
                        own += need
        return self._admit

    def _start_chunks(self, prefilling: list[Worker], rows: int, context: int, now: float) -> None:
        """Share the time of a step among the workers that prefill, each in order of arrival."""
        target, price = self.batching.step_s, self.price
        if rows:
            spare = max(_LEAST_SHARE * target, target - price.seconds(rows, 0, context))
        else:
            spare = _ALONE * target
        share = spare / len(prefilling)
        chunks, total, pairs = [], 0, 0.0
        for worker in prefilling:
            seconds, room = share, self.batching.chunk_tokens
            for request in worker.prefilling:
                each = price.prefill + price.attention * request.computed
                tokens = min(request.left, room, int(seconds / each) + 1)
                chunks.append((worker, request, tokens))
                total += tokens
                pairs += tokens * (request.computed + tokens / 2)
                seconds -= tokens * each
                room -= tokens
                if seconds <= 0 or room <= 0 or tokens < request.left:
                    break
        self._chunks = chunks
        self.event = now + price.seconds(rows, total, context, pairs)

    def _cut_leap(self, now: float) -> None:
        """End a run of decode steps with the step that runs at `now`."""
        assert self._leap is not None
        start, steps, first, growth = self._leap
        passed = now - start
        # The least k with k * first + growth * k * (k - 1) / 2 >= passed.
        if growth > 0:
            b = first - growth / 2
            done = (math.sqrt(b * b + 2 * growth * passed) - b) / growth
        else:
            done = passed / first
        k = max(1, min(steps, math.ceil(done - 1e-9)))
        if k < steps:
            self._leap = start, k, first, growth
            self.epoch += 1
            self.event = self._end_of(k)

    def _end_of(self, steps: int) -> float:
        """Of so many decode steps of the run."""
        assert self._leap is not None
        start, _, first, growth = self._leap
        return start + steps * first + growth * steps * (steps - 1) / 2
