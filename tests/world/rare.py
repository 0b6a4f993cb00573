"""How often what is rare has happened: a campaign in which something never did has not tried it."""

from typing import Any

from amoeba_sglang.adapters.worker.requests import Requests
from amoeba_sglang.control.reports import Report, Vote
from amoeba_sglang.control.worker import protocol
from tests.world.events import Ask

# Each is to be seen in a campaign of all profiles at 2, 4 and 8 workers.
EXPECTED = (
    # Operations
    "Ask", "Change", "Fault", "NoPages", "Slow", "Late", "Pause", "Flush", "AbortAll", "Strike",
    "Weights", "Lose",
    "asks with a grammar", "asks with logprobs", "asks with an open end", "asks for a rank",
    "asks with a priority", "prompts with several answers", "requests served",
    "requests ended as asked", "clients that left", "refused by the front end",
    "refused by the router 400", "aborted at the router", "held by the router, then placed",
    "merges done", "splits done", "changes by rules", "merges refused", "splits refused",
    "orders that would strand a request", "orders answered 409", "merges timeout",
    "splits timeout", "merges undone", "splits undone",
    "flushes", "flushes refused", "weights updated", "weights read", "weights refused",
    "requests that wait for weights", "a worker dies", "a worker stops", "a worker hangs",
    # Votes and changes
    "votes yes", "votes no", "votes too late", "orders taken back after a yes",
    "steps that wait for an order", "steps before a meeting", "prompts in chunks at a meeting",
    "long requests through a change", "long requests that end in mid-change",
    "requests that come in mid-change", "grammars that compile through a vote",
    "steps in mid-change", "mirrors heard in mid-change", "map faults in a merge",
    "map faults in a split", "map faults at the last layer", "map faults (grow)",
    "refused for pages", "steps above 20 s",
    # Slots
    "loans", "loans that come home", "recalls", "recalls that are met", "steps with leases",
    "leases through a change", "steps with extra slots in use", "withheld slots",
    "slots in a refuge", "slots copied", "rows told again",
    # Ends
    "retractions alone", "retractions when merged", "retractions in mid-change",
    "aborts while an order is undecided", "aborts after a yes", "aborts after COMMIT",
    "aborts in mid-change", "aborts when merged", "aborts of a prompt in chunks",
    "aborts of a running request", "aborts of a waiting request", "aborts while a grammar compiles",
    "rings", "joint steps", "paused steps of merged workers",
)  # fmt: skip


class Rare:
    """Of one history; everything goes to `play.counts`."""

    def __init__(self, play: Any) -> None:
        self._play, self._counts = play, play.counts
        # Epoch of the last order that the router has sent.
        self._epoch = 0
        # By anchor, the lenders that wanted slots back in the round before.
        self._recalls: dict[int, set[int]] = {}

    def count(self, name: str, times: int | bool = 1) -> None:
        if times:
            self._counts[name] += times

    # Clients and router

    def see_request(self, ask: Ask) -> None:
        self.count("asks with a grammar", ask.compiles is not None)
        self.count("asks with logprobs", ask.logprobs)
        self.count("asks with an open end", ask.output is None)
        self.count("asks for a rank", ask.rank is not None)
        self.count("asks with a priority", ask.priority is not None)

    def see_order(self, epoch: int) -> None:
        self._epoch = epoch

    def see_record(self, record: Any) -> None:
        """Of an operation that has ended."""
        self.count(f"{record.kind}s {record.outcome}")
        stranded = record.outcome == "refused" and not record.seconds
        self.count("orders that would strand a request", stranded)
        by_rules = record.operation_id.startswith("auto-") and record.outcome == "done"
        self.count("changes by rules", by_rules)

    def see_report(self, report: Report) -> None:
        """Comes to the router now."""
        if isinstance(report, Vote):
            self.count("votes yes" if report.accept else "votes no")
            running = self._play.router.operations.running
            asked = running is not None and running["phase"] == "prepare"
            self.count("votes too late", not asked or report.epoch != self._epoch)

    # Workers

    def see_effect(self, worker: Any, effect: Any) -> None:
        """Is about to be done by a worker's protocol."""
        match effect:
            case protocol.Consider():
                compiling = worker.grammar_manager.grammar_queue
                self.count("grammars that compile through a vote", len(compiling))
            case protocol.StandDown():
                ledger = worker.token_to_kv_pool_allocator.ledger
                self.count("orders taken back after a yes", ledger.has_voted)
            case protocol.Enter():
                self.count("prompts in chunks at a meeting", worker.chunked_req is not None)
                is_long = worker.token_to_kv_pool_allocator.is_long
                longs = sum(map(is_long, Requests(worker).live))
                self.count("long requests through a change", longs)
            case protocol.Ring():
                self.count("rings")

    def see_step(self, worker: Any, batch: Any) -> None:
        ledger, changing = worker.token_to_kv_pool_allocator.ledger, is_changing(worker)
        self.count("steps with leases", bool(len(ledger.extra.leased)))
        self.count("steps with extra slots in use", bool(ledger.extra.in_use))
        self.count("steps in mid-change", changing)
        self.count("leases through a change", changing and bool(len(ledger.extra.leased)))
        self.count("withheld slots", len(ledger.extra.withheld))
        self.count("slots in a refuge", len(ledger.kept))
        self.count("steps that prefill", batch.forward_mode.is_extend())

    def see_arrival(self, worker: Any) -> None:
        self.count("requests that come in mid-change", is_changing(worker))

    def see_retraction(self, worker: Any) -> None:
        merged = "when merged" if worker.runtime.degree > 1 else "alone"
        self.count(f"retractions {'in mid-change' if is_changing(worker) else merged}")

    def see_abort(self, worker: Any, rid: str) -> None:
        """Comes to a worker now."""
        found = [req for req in Requests(worker).all if req.rid == rid]
        if not found:
            return
        self.count(f"aborts {worker.runtime.protocol.stage}")
        [req] = found
        if req is worker.chunked_req:
            self.count("aborts of a prompt in chunks")
        elif req in worker.grammar_manager.grammar_queue:
            self.count("aborts while a grammar compiles")
        else:
            running = req.kv is not None and req.kv.holds_kv
            self.count(f"aborts of a {'running' if running else 'waiting'} request")

    def see_end(self, worker: Any, rid: str) -> None:
        """A worker sends the end of a request."""
        if is_changing(worker):
            client = self._play.clients.by_rid[rid]
            tokens = client.ask.prompt + client.output
            limit = worker.token_to_kv_pool_allocator.request_tokens
            self.count("long requests that end in mid-change", tokens > limit)

    def see_map_fault(self, worker: Any, what: str) -> None:
        if what == "grow":
            self.count("map faults (grow)")
            return
        change = worker.runtime.transformation
        falls, layers = change.boundary.falls, worker.runtime.config.layers
        self.count(f"map faults in a {'merge' if falls else 'split'}")
        self.count("map faults at the last layer", (0 if falls else layers - 1) in change.layers)

    def see_round(self, anchor: int, records: list[Any]) -> None:
        """An anchor hears the records of its instance."""
        lent = sum(len(record.slots.lent) for record in records)
        home = len(records[0].slots.returned)
        self.count("loans", lent > 0)
        self.count("loans that come home", home > 0)
        wanted = {place for place, record in enumerate(records) if place and record.slots.wanted}
        self.count("recalls", bool(wanted))
        self.count("recalls that are met", home > 0 and bool(self._recalls.get(anchor)))
        self._recalls[anchor] = wanted
        rows = [row for record in records for row in record.rows]
        self.count("mirrors heard in mid-change", records[0].boundary >= 0 and bool(rows))
        again = (0 < row.known < row.seq_len - 1 for row in rows if row.extend_len == 1)
        self.count("rows told again", sum(again))


def is_changing(worker: Any) -> bool:
    return worker.runtime.transformation is not None
