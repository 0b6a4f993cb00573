"""The invariants of DESIGN, section 12, looked at while a history plays."""

from collections import deque
from typing import Any

import numpy as np

from amoeba_sglang.adapters.worker.batch_rows import lengths_of_batch
from amoeba_sglang.adapters.worker.requests import batched_requests
from amoeba_sglang.control.layout.locations import slots_of
from amoeba_sglang.control.layout.slots import FIRST_LEASED
from tests.world.shadow import content_of
from tests.world.violation import Violation
from tests.world.waiting import Waiting

# The owners of all slots of a worker are looked at so often, in turns of its loop.
_AUDIT_EVERY = 50


def _key(record: Any) -> tuple[int, int, int]:
    """Of a step: an epoch counts its steps from 0 again when its change is over."""
    return record.epoch, record.step, record.boundary


class Checks:
    """`steps`: engine steps with rows, of all workers."""

    def __init__(self, play: Any) -> None:
        self._play = play
        self.steps = 0
        self._turns = 0
        self.waiting = Waiting(play)
        # By rank, of the last steps: their keys and the own slots of each row in it.
        self._rows: list[deque[Any]] = [deque(maxlen=3) for _ in play.workers]
        # By anchor: the epoch, and what is lacking still after the last round of records.
        self._unmet: dict[int, tuple[int, int]] = {}

    # After every turn of a worker's loop

    def after_turn(self, worker: Any, batch: Any, running_batch: Any) -> None:
        self._turns += 1
        self._require_promises(worker)
        self._require_untouched(worker)
        self._require_copies(worker)
        if batch is not None:
            self.steps += 1
            self._require_content(worker, batch)
            self._play.rare.see_step(worker, batch)
        if self._turns % _AUDIT_EVERY == 0:
            self._audit(worker, batch, running_batch)

    def _audit(self, worker: Any, *planned: Any) -> None:
        problems = worker.problems(*planned)
        if problems:
            raise Violation("slots have no owner or two", f"rank {worker.rank}: {problems[:4]}")

    def _require_content(self, worker: Any, batch: Any) -> None:
        """What the step reads is what was written for its prefix."""
        table, shadow = worker.req_to_token_pool.req_to_token, self._play.shadow
        of_device = worker.tp_worker.model_runner.req_to_token_pool.req_to_token
        rows = batch.req_pool_indices_cpu.tolist()
        for req, row, (length, new) in zip(batch.reqs, rows, lengths_of_batch(batch), strict=True):
            at, known = table[row, :length].numpy().astype(np.int64), content_of(req)[:length]
            if not np.array_equal(at, of_device[row, :length].numpy()):
                raise Violation("wrong rows on the device", f"rank {worker.rank} {req.rid}")
            shadow.write(worker.rank, at[length - new :], known[length - new :])
            self._play.counts["tokens"] += new
            wrong = np.flatnonzero(shadow.read(worker.rank, at) != known)
            if len(wrong):
                raise Violation(
                    "wrong KV",
                    f"rank {worker.rank} {req.rid}: {len(wrong)} of {length} tokens, the first at "
                    f"{wrong[0]}, location {at[wrong[0]]}",
                )

    def _require_promises(self, worker: Any) -> None:
        """A worker takes what the router promises of it, before, while and after it changes."""
        router, rank = self._play.router, worker.rank
        operations = router.operations
        layouts = (operations.layout, operations.target)
        promised = min(worker.capacity.by_rank(layout)[rank] for layout in layouts)
        if worker.max_req_len < promised:
            raise Violation(
                "one promise",
                f"the router promises requests of {promised} tokens at rank {rank}, which takes "
                f"them below {worker.max_req_len}",
            )

    def _require_untouched(self, worker: Any) -> None:
        """Only an order that was voted for keeps slots from anybody."""
        ledger = worker.token_to_kv_pool_allocator.ledger
        kept = len(ledger.extra.withheld) + len(ledger.kept)
        if kept and not ledger.has_voted:
            raise Violation(
                "an order that is undecided or taken back keeps slots",
                f"rank {worker.rank}: {kept}, verdict {ledger.verdict!r}",
            )

    def _require_copies(self, worker: Any) -> None:
        """Tokens move only while somebody will copy them, before anybody can find them cached."""
        ledger = worker.token_to_kv_pool_allocator.ledger
        if ledger.seat is None and len(ledger.moves):
            raise Violation(
                "tokens move when nobody copies them",
                f"rank {worker.rank}, in mid-change: {len(ledger.moves)} slots",
            )

    # Between the workers

    def hear_loans(self, anchor: int, records: list[Any]) -> None:
        """Peers lend no more than what was lacking a round ago and has not come since."""
        lent = sum(len(record.slots.lent) for record in records)
        epoch, unmet = self._unmet.get(anchor, (0, 0))
        if epoch == records[0].epoch and lent > unmet:
            raise Violation("more is lent than is lacking", f"rank {anchor}: {lent} for {unmet}")
        self._unmet[anchor] = records[0].epoch, max(0, records[0].slots.wanted - lent)
        self._play.rare.see_round(anchor, records)

    def remember_rows(self, rank: int, record: Any) -> None:
        """What the owner has when it goes on from telling its peers."""
        self._rows[rank].append((_key(record), self._rows_now(rank, record)))

    def _rows_now(self, rank: int, record: Any) -> dict[int, np.ndarray]:
        worker = self._play.workers[rank]
        table = worker.req_to_token_pool.req_to_token
        page = worker.token_to_kv_pool_allocator.page_size
        return {
            row.row: slots_of(table[row.row, : row.seq_len].numpy(), page) for row in record.rows
        }

    def compare_union(self, first: int, degree: int, members: list[Any], union: Any) -> None:
        """What a peer would compute with is what the owner has."""
        slots = iter(union.slots)
        worker = self._play.workers[first]
        chain, size = worker.runtime.chain, worker.token_to_kv_pool_allocator.num_pages
        for place, record in enumerate(members):
            key = _key(record)
            # An owner that has not gone on yet still has what it told.
            told = [rows for known, rows in self._rows[first + place] if known == key]
            rows = told[0] if told else self._rows_now(first + place, record)
            for row in record.rows:
                expected = self._joint_slots(chain, degree, place, rows[row.row], size).tolist()
                found = next(slots).tolist()
                if found != expected:
                    wrong = [
                        i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b
                    ]
                    raise Violation(
                        "a mirror is not its row",
                        f"rank {first + place} row {row.row} in step {key} of degree {degree}: "
                        f"{len(found)} slots for {len(expected)}, others at {wrong[:8]}: "
                        f"{[(found[at], expected[at]) for at in wrong[:1]]}",
                    )
        self._play.counts["joint steps"] += 1

    @staticmethod
    def _joint_slots(
        chain: Any, degree: int, place: int, slots: np.ndarray, size: int
    ) -> np.ndarray:
        """From the definitions of DESIGN, section 4, one by one."""
        own = degree * slots + chain.shard(degree, place)
        grown = degree * (size + 1) + slots - size - 1
        lent, shard = np.divmod(slots - FIRST_LEASED, chain.finest)
        leased = degree * lent + shard * degree // chain.finest
        return np.select([slots >= FIRST_LEASED, slots > size], [leased, grown], own)

    # Requests

    def end(self, rid: str, reason: dict[str, Any] | None, by: str) -> None:
        """A request has ended, and its client hears how."""
        client = self._play.clients.by_rid[rid]
        kind = (reason or {}).get("type")
        self._play.note("end", rid, kind, client.tokens, by, (reason or {}).get("message", ""))
        if not client.open:
            return
        self._judge_end(client, kind, reason, by)
        self._play.front_end.ended(client)

    def _judge_end(self, client: Any, kind: str | None, reason: Any, by: str) -> None:
        client.status, client.reason = "whole" if kind == "length" else "aborted", reason
        if kind == "length" and client.tokens == client.output:
            self._play.counts["requests served"] += 1
            return
        asked = f"{client.rid} {client.ask.prompt}+{client.output}"
        what = f"{asked} by {by} after {client.tokens}: {reason}"
        if client.excused:
            self._play.counts["requests ended as asked"] += 1
        elif kind == "length":
            raise Violation("an accepted request is shortened", what)
        elif by == "the router" and not client.tokens:
            client.status = "refused"
            self._play.counts[f"refused by the router {reason.get('status_code')}"] += 1
        else:
            raise Violation("an accepted request ends with an error", what)

    # The end

    def at_rest(self) -> bool:
        """Whether nothing is under way any more."""
        workers = self._play.workers
        allocators = [worker.token_to_kv_pool_allocator for worker in workers]
        away = any(len(one.ledger.extra.leased) + len(one.ledger.lent) for one in allocators)
        # The results of a step may be half processed.
        busy = any(one.free_group is not None for one in allocators)
        return not (away or busy) and all(worker.is_fully_idle() for worker in workers)

    def at_the_end(self) -> None:
        """Nothing has leaked, and all agree."""
        degrees = self._play.router.operations.layout.degrees
        have = tuple(worker.runtime.degree for worker in self._play.workers)
        if degrees != have:
            raise Violation("layouts disagree", f"router {degrees}, workers {have}")
        for worker in self._play.workers:
            self._audit(worker)
            allocator, pool = worker.token_to_kv_pool_allocator, worker.req_to_token_pool
            lent, extra = allocator.ledger.lent, allocator.ledger.extra
            away = len(lent), len(extra.leased), len(extra.withheld)
            if any(away):
                raise Violation("slots are not home", f"rank {worker.rank}: {away}")
            rows = pool.size - pool.available_size()
            if rows:
                raise Violation("rows are lost", f"rank {worker.rank}: {rows}")
        if self._play.operator.asked:
            raise Violation("an order is never answered", str(self._play.operator.asked))
        if self._play.operator.waits:
            raise Violation("a control request is never answered", self._play.operator.waits)

    def require_ended(self) -> None:
        """The time is over: say what has not ended."""
        left = self._play.clients.open
        if left:
            first = left[0]
            raise Violation(
                "a request never ends",
                f"{len(left)}, the first {first.rid} {first.ask.prompt}+{first.output} got "
                f"{first.tokens}; {self._whereabouts(first.rid)}",
            )
        self.at_the_end()
        raise Violation("no rest", str([fiber.waiting for fiber in self._play.loop.fibers]))

    def _whereabouts(self, rid: str) -> str:
        for worker in self._play.workers:
            for place, req in enumerate(worker.waiting_queue):
                if req.rid == rid:
                    head = worker.waiting_queue[0]
                    return (
                        f"number {place} in the queue behind {self.waiting.describe(worker, head)}"
                    )
            if any(req.rid == rid for req in batched_requests(worker)):
                return f"runs at rank {worker.rank}"
            if any(req.rid == rid for req in worker.grammar_manager.grammar_queue):
                return f"its grammar compiles at rank {worker.rank}"
        return "no worker has it"
