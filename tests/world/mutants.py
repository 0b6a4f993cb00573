"""Faults that can be put into a copy of the package, to see whether the world finds them.

    make world-mutants            plays until each is found, or its time is over (LIST=1: names)
    make world MUTANT=name ...    plays with one of them

Names that begin with "fault" are the faults of slots, votes, limits and queues that were found by
reading, as they were before they were mended; the others are of our own making.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PACKAGE = "amoeba_sglang"


@dataclass(frozen=True)
class Mutant:
    """`changes`: (file of the package, text that is in it once, what it becomes). `profile`,
    `workers`: where it is looked for."""

    about: str
    changes: tuple[tuple[str, str, str], ...]
    profile: str = "busy"
    workers: int = 2

    def apply(self, package: Path) -> None:
        for name, old, new in self.changes:
            text = (package / name).read_text()
            assert text.count(old) == 1, f"{name} has {text.count(old)} of: {old}"
            (package / name).write_text(text.replace(old, new))


def _one(
    about: str, file: str, old: str, new: str, profile: str = "busy", workers: int = 2
) -> Mutant:
    return Mutant(about, ((file, old, new),), profile, workers)


LEDGER, LOANS, DEPARTURE = (
    "control/shares/ledger.py",
    "control/shares/loans.py",
    "control/shares/departure.py",
)
PROTOCOL, REQUESTS, MIRROR = (
    "control/worker/protocol.py",
    "adapters/worker/requests.py",
    "control/worker/mirror.py",
)
BUDGET, OPERATION = "adapters/model/prefill_budget.py", "control/router/operation.py"

MUTANTS = {
    "fault-a-late-copy": Mutant(
        "Tokens of a long request that ends in mid-change move when nobody copies them in time, "
        "and a copy is not tied to its target.",
        (
            (LEDGER, "return own_free if self.admits_long else 0", "return own_free"),
            (
                LEDGER,
                "        assert not len(self.moves), "
                'f"{len(self.moves)} slots have not been copied"\n',
                "",
            ),
            (LEDGER, "np.concatenate([slots, self.moves.cancel(slots)])", "slots"),
        ),
        "tails",
        4,
    ),
    "fault-b-limits": _one(
        "A worker in mid-change takes only what its own slots hold.",
        PROTOCOL,
        "yield Limits((order.before[place], order.after[place]))",
        "yield Limits((1,))",
        workers=4,
    ),
    "fault-1-prepare-takes": _one(
        "PREPARE takes slots away before there is a refuge.",
        LEDGER,
        "        if not claims.live_long:\n",
        "        self.extra.close(self._departure.stays)\n        if not claims.live_long:\n",
    ),
    "fault-2-clipped": Mutant(
        "A long request is admitted although it may lack slots later.",
        (
            (
                BUDGET,
                "self._rest(self._req) <= self._room_for_long() and",
                "self._room_for_long() > 0 and",
            ),
        ),
        "dense",
    ),
    "fault-2-lender-last": _one(
        "A lender's own requests never go first.",
        LOANS,
        "due, goes_first = self._due(), self._waiter.since < self._ask.since",
        "due, goes_first = self._due(), False",
        "leases",
    ),
    "fault-6-grammar": _one(
        "Requests whose grammar compiles are not seen.",
        REQUESTS,
        "[*self._scheduler.waiting_queue, *self._scheduler.grammar_manager.grammar_queue]",
        "[*self._scheduler.waiting_queue]",
        "grammar",
    ),
    "fault-7-growth": _one(
        "More room wakes nobody.",
        LEDGER,
        "        return grew\n",
        "        return False\n",
        "leases",
    ),
    "fault-8-twice": _one(
        "Peers lend twice what is lacking.",
        LOANS,
        "self._unmet = max(0, anchor.wanted - sum(len(one.lent) for one in news))",
        "self._unmet = anchor.wanted",
        "leases",
    ),
    "fault-9-never-home": _one(
        "Leases come home only when no long request lives.",
        LOANS,
        "        self._extra.end_leases(returned)\n",
        "        returned = no_slots() if claims.live_long else returned\n"
        "        self._extra.end_leases(returned)\n",
        "leases",
    ),
    # Votes
    "vote-one-is-enough": _one(
        "COMMIT goes out after the first yes.",
        OPERATION,
        "        if operation.missing:\n            return []\n        operation.phase",
        "        operation.phase",
    ),
    "vote-stale": _one(
        "A vote about an earlier order counts.",
        OPERATION,
        "operation.epoch != vote.epoch or operation.phase",
        "operation.phase",
        "mixed",
    ),
    "vote-done-early": _one(
        "The first worker that is done makes the layout.",
        OPERATION,
        "        if operation.missing:\n            return []\n        errors",
        "        errors",
    ),
    "vote-undone-is-done": _one(
        "A change that was undone counts as done.", OPERATION, "if errors:", "if False:", "faults"
    ),
    "vote-no-abort": _one(
        "Workers do not hear that an order is taken back.",
        OPERATION,
        "return [abort, *self._finish(",
        "return [*self._finish(",
    ),
    "vote-kept-after-abort": _one(
        "An order that was taken back is still voted about.",
        PROTOCOL,
        "            self._undecided = self._voted = None\n            yield StandDown()",
        "            yield StandDown()",
    ),
    # Shares
    "share-stays-closed": _one(
        "An order that is taken back leaves slots withheld.",
        DEPARTURE,
        "        self.forget()\n        extra.open()\n",
        "        self.forget()\n",
    ),
    "share-refuge-is-kept": _one(
        "What of a refuge nobody needs is lost.",
        DEPARTURE,
        "        self._give_back(targets, extra, own)\n",
        "",
    ),
    "share-refuge-of-others": _one(
        "A refuge is promised out of what short requests may still take.",
        DEPARTURE,
        "own_room = own.room() - claims.short_rest",
        "own_room = own.room()",
    ),
    "share-not-home": _one(
        "Lent slots do not come home when their instance ends.",
        LEDGER,
        "if seat.place >= width:",
        "if seat.place > width:",
    ),
    "share-home-is-lost": _one(
        "What comes home is free for nobody.",
        LEDGER,
        "            own.put(home)\n            self._grew |= len(home) > 0",
        "            self._grew |= len(home) > 0",
        "leases",
    ),
    "share-promise-forgotten": _one(
        "Short requests get what live long ones were promised.",
        LEDGER,
        "max(0, long_rest - self.extra.free_count) if self.admits_long else 0",
        "0",
        "dense",
    ),
    "share-lent-is-dead": _one(
        "Lent slots count as dead when layers move.",
        "adapters/worker/slots.py",
        "    live[0] = False\n",
        "    live[0] = False\n    live[torch.from_numpy(allocator.ledger.lent)] = False\n",
        "leases",
        4,
    ),
    # Mirror
    "mirror-generation": _one(
        "Peers keep the row of a request whose number is used again.",
        MIRROR,
        "sent is None or sent.generation != generation",
        "sent is None",
    ),
    "mirror-rewrite": _one(
        "Peers do not hear that the prefix cache has rewritten a row.",
        MIRROR,
        "elif sent.protected_len != protected_len:",
        "elif False:",
        "share",
    ),
    "mirror-moved": _one(
        "Peers do not hear that tokens have moved.",
        MIRROR,
        "            self._sent[row].known = 0\n",
        "            pass\n",
        workers=4,
    ),
    "mirror-unheard": _one(
        "Steps that are not computed together are not heard.",
        "adapters/worker/elastic_runtime.py",
        "        self.executor.hear(records)\n",
        "        if self.degree > 1:\n            self.executor.hear(records)\n",
        "faults",
    ),
    "mirror-leased": _one(
        "Leased slots of a narrower instance are computed wrongly.",
        "control/layout/slots.py",
        "(ids - FIRST_LEASED) * degree // self.finest,",
        "(ids - FIRST_LEASED) // self.finest * degree,",
        "leases",
        4,
    ),
    # Boundary
    "boundary-split": _one(
        "b does not move in a split.",
        "control/transform/boundary.py",
        "Boundary(moved.start if self.falls else moved.stop,",
        "Boundary(moved.start,",
    ),
    "boundary-not-reversed": _one(
        "A change that failed goes on.",
        "planes/transformation.py",
        "        self.boundary = self.boundary.reversed()\n",
        "",
        "faults",
    ),
    "boundary-not-settled": _one(
        "Layers that have moved keep their degree on the way back.",
        "planes/transformation.py",
        "return (self._upper if self.boundary.falls else self._lower)[self._index]",
        "return self._upper[self._index]",
    ),
    # Abort and sleep
    "abort-chunk-unseen": _one(
        "An aborted prompt that is still being computed is not seen.",
        REQUESTS,
        "chunked = (scheduler.chunked_req, scheduler._pending_chunked_abort_req)",
        "chunked = (scheduler.chunked_req,)",
        "share",
    ),
    "abort-waits-on": _one(
        "A request that waits at the router is not aborted.",
        "control/router/events.py",
        "return self.everything or rid == self.rid",
        "return self.everything",
        "rules",
    ),
    "pause-leaves-peers": _one(
        "A paused worker does not meet its peers.",
        "adapters/worker/scheduler.py",
        "        if self._engine_paused:\n            self.step_with_peers(None, None)\n",
        "",
        "mixed",
    ),
    "sleep-unrung": _one(
        "Whoever gets work wakes nobody.",
        PROTOCOL,
        "yield Ring(tuple(rank for rank in self.ranks if rank != self.rank), tag)",
        "pass",
    ),
}


def use(name: str) -> None:
    """Let this process import a copy of the package that has the fault; before it imports any."""
    assert not any(module.split(".")[0] == _PACKAGE for module in sys.modules)
    folder = Path(tempfile.mkdtemp(prefix="amoeba-mutant-"))
    shutil.copytree(_ROOT / _PACKAGE, folder / _PACKAGE)
    MUTANTS[name].apply(folder / _PACKAGE)
    sys.path.insert(0, str(folder))
