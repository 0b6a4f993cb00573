"""An anchor's way from PREPARE to its vote: long requests leave the slots that the order takes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from amoeba_sglang.layout.locations import slots_filled, slots_of
from amoeba_sglang.layout.slots import FIRST_LEASED, DegreeChain
from amoeba_sglang.model.kv_allocator import ElasticAllocator
from amoeba_sglang.plan.relocation import Refuge
from amoeba_sglang.worker.demand import Demand

_STEPS_UNTIL_LENT = 3


class Relocation:
    """Moves the tokens of an anchor's long requests to slots that stay, once all of them have room.

    Until then nothing changes for the requests that live: what they take of the slots that go away
    is moved with the rest. From then on, until the vote is taken back or the layout changes, they
    get only slots that stay, which the verdict has counted, and no further long request is
    admitted.

    `workers`: indices in the group of those whose slots stay, the anchor first. `table`: the
    anchor's `req_to_token`; `forget(row)`: peers must be told this row of it again. `live`: the
    requests that hold KV now. `vote_tokens`, `change_tokens`: output tokens of a request to have
    slots for, besides its prompt, from the vote to the meeting of the block, and from then on until
    the change is over. `verdict`: None while undecided, "" when nothing is left on slots that go
    away, else why not.
    """

    def __init__(
        self,
        allocator: ElasticAllocator,
        tree_cache: Any,
        chain: DegreeChain,
        workers: range,
        table: torch.Tensor,
        forget: Callable[[int], None],
        live: Iterable[Any],
        vote_tokens: int,
        change_tokens: int,
    ) -> None:
        self._allocator, self._tree_cache, self._table = allocator, tree_cache, table
        self._workers, self._forget = workers, forget
        self._vote_tokens, self._change_tokens = vote_tokens, change_tokens
        self._finest = chain.finest
        lenders = [chain.shard(chain.finest, worker) for worker in workers[1:]]
        self._lenders = torch.tensor(lenders, dtype=torch.int64)
        self.verdict: str | None = None
        if not allocator.extra_in_use and not any(map(allocator.is_long, live)):
            allocator.close(self.stays)
            self.verdict = ""
        self._lacked: int | None = None
        self._asked = False

    def stays(self, extra: torch.Tensor) -> torch.Tensor:
        """Which of these extra slots are still there at every layer during the change; bool."""
        lender = (extra.to(torch.int64) - FIRST_LEASED) % self._finest
        return (extra >= FIRST_LEASED) & torch.isin(lender, self._lenders)

    def offer(self, demand: Demand, own_room: int) -> dict[str, Any]:
        """What the anchor's next step record says about it. `own_room`: own slots that are free, or
        can be, and that no short request may still take."""
        allocator = self._allocator
        long = [req for req in demand.live() if allocator.is_long(req)]
        if len(allocator.moves[0]) or any(map(demand.is_ending, long)):
            # They will be gone in a step or two.
            return {}
        strays = [(req, self._strays(req)) for req in long]
        count = sum(len(numbers) for _, numbers in strays)
        coming = sum(self._coming(req, self._vote_tokens + self._change_tokens) for req in long)
        leased_room = int(self.stays(allocator.free_extra).sum())
        refuge = Refuge.find(count, coming, own_room, leased_room)
        if not refuge.lacking:
            # What this step computes goes to slots that were given before, and cannot move yet.
            settled = allocator.closed or not long
            allocator.close(self.stays)
            if settled:
                self._move(strays, refuge)
                self.verdict = ""
            return {}
        allocator.open()
        if self._asked:
            # The answer comes with this exchange.
            self._asked = False
        elif len(self._workers) > 1 and (self._lacked is None or refuge.lacking < self._lacked):
            self._lacked, self._asked = refuge.lacking, True
            # Every one of them computes a token in each step until the answer has been heard.
            missing = refuge.lacking + _STEPS_UNTIL_LENT * len(long)
            return {"slots_missing": missing, "lenders": len(self._workers)}
        else:
            ranks, page = list(self._workers), allocator.page_size
            leased = leased_room * page
            self.verdict = (
                f"{len(long)} running requests longer than one worker's {allocator.size} slots "
                f"have {count * page} tokens on slots that the change takes away and compute up to "
                f"{coming * page} more meanwhile, but workers {ranks} have "
                f"{max(0, own_room) * page} own slots and {leased} leased ones to spare; wait for "
                "their end, or abort them"
            )
        return {}

    def runs_short(self, live: Iterable[Any]) -> bool:
        """Whether the next step could take slots that the change itself will need, since COMMIT, or
        the meeting after it, is long in coming: the requests must wait for it."""
        long = filter(self._allocator.is_long, live)
        needed = sum(self._coming(req, self._change_tokens) for req in long)
        return len(self._allocator.free_extra) < needed

    def _row(self, req: Any) -> torch.Tensor:
        """Locations of the tokens that the tree does not own; a view."""
        start = req.kv.cache_protected_len
        return self._table[req.kv.req_pool_idx, start : req.kv.kv_allocated_len]

    def _strays(self, req: Any) -> torch.Tensor:
        """Which slots of `_row` go away, counted from its start; int64."""
        row, page = self._row(req), self._allocator.page_size
        slots = torch.from_numpy(slots_of(row.cpu().numpy(), page))
        return ((slots > self._allocator.num_pages) & ~self.stays(slots)).nonzero().flatten()

    def _coming(self, req: Any, output_tokens: int) -> int:
        """Slots that the request will need besides those that it has, for the rest of its prompt
        and so many tokens of its output."""
        held, page = req.kv.kv_allocated_len, self._allocator.page_size
        prompt = len(req.origin_input_ids) - held
        output = req.sampling_params.max_new_tokens - len(req.output_ids)
        tokens = max(0, prompt) + min(max(0, output), output_tokens)
        return slots_filled(held + tokens, page) - slots_filled(held, page)

    def _move(self, strays: Iterable[tuple[Any, torch.Tensor]], refuge: Refuge) -> None:
        allocator = self._allocator
        allocator.evict_to_free_tokens(self._tree_cache, refuge.own * allocator.page_size)
        own = allocator.take_own(refuge.own)
        assert own is not None, f"{allocator.available_size()} own slots, not {refuge.own}"
        targets = torch.cat([own, allocator.take_extra(refuge.leased)])
        for req, numbers in strays:
            if not len(numbers):
                continue
            target, targets = targets[: len(numbers)], targets[len(numbers) :]
            allocator.put_into(self._row(req), numbers, target)
            self._forget(req.kv.req_pool_idx)
