"""Faults of our own making: in votes, shares, mirror, boundary, abort paths."""

from tests.world.mutants.files import (
    DEPARTURE,
    LEDGER,
    MIRROR,
    OPERATION,
    PROTOCOL,
    SCHEDULER,
)
from tests.world.mutants.mutant import one

OWN = {
    # Votes
    "vote-one-is-enough": one(
        "COMMIT goes out after the first yes.",
        OPERATION,
        "        if operation.missing:\n            return []\n        operation.phase",
        "        operation.phase",
    ),
    "vote-stale": one(
        "A vote about an earlier order counts.",
        OPERATION,
        "operation.epoch != vote.epoch or operation.phase",
        "operation.phase",
        "mixed",
    ),
    "vote-done-early": one(
        "The first worker that is done makes the layout.",
        OPERATION,
        "        if operation.missing:\n            return []\n        errors",
        "        errors",
    ),
    "vote-undone-is-done": one(
        "A change that was undone counts as done.", OPERATION, "if errors:", "if False:", "faults"
    ),
    "vote-no-abort": one(
        "Workers do not hear that an order is taken back.",
        OPERATION,
        "return [abort, *self._finish(",
        "return [*self._finish(",
        "faults",
    ),
    "vote-kept-after-abort": one(
        "An order that was taken back is still voted about.",
        PROTOCOL,
        "            self._undecided = self._voted = None\n            yield StandDown()",
        "            yield StandDown()",
        "faults",
    ),
    # Shares
    "share-stays-closed": one(
        "An order that is taken back leaves slots withheld.",
        DEPARTURE,
        "        self.forget()\n        extra.open()\n",
        "        self.forget()\n",
        "faults",
        4,
    ),
    "share-refuge-is-kept": one(
        "What of a refuge nobody needs is lost.",
        DEPARTURE,
        "        self._give_back(targets, extra, own)\n",
        "",
        "eager",
        4,
    ),
    "share-refuge-of-others": one(
        "A refuge is promised out of what short requests may still take.",
        DEPARTURE,
        "own_room = own.room() - claims.short_rest",
        "own_room = own.room()",
        "eager",
        4,
    ),
    "share-not-home": one(
        "Lent slots do not come home when their instance ends.",
        LEDGER,
        "if seat.place >= width:",
        "if seat.place > width:",
        "leases",
        4,
    ),
    "share-home-is-lost": one(
        "What comes home is free for nobody.",
        LEDGER,
        "            own.put(home)\n            self._grew |= len(home) > 0",
        "            self._grew |= len(home) > 0",
        "leases",
    ),
    "share-promise-forgotten": one(
        "Short requests get what live long ones were promised.",
        LEDGER,
        "max(0, long_rest - self.extra.free_count) if self.admits_long else 0",
        "0",
        "tardy",
    ),
    "share-lent-is-dead": one(
        "Lent slots count as dead when layers move.",
        "adapters/worker/slots.py",
        "    live[0] = False\n",
        "    live[0] = False\n    live[torch.from_numpy(allocator.ledger.lent)] = False\n",
        "tardy",
        workers=4,
    ),
    "share-lender-sleeps": one(
        "A lender may fall asleep in the round in which it lends.",
        LEDGER,
        "            return self._lender.is_asked\n        if self._borrower is None:",
        "            return False\n        if self._borrower is None:",
        "grammar",
    ),
    # Mirror
    "mirror-generation": one(
        "Peers keep the row of a request whose number is used again.",
        MIRROR,
        "sent is None or sent.generation != generation",
        "sent is None",
    ),
    "mirror-rewrite": one(
        "Peers do not hear that the prefix cache has rewritten a row.",
        MIRROR,
        "elif sent.protected_len != protected_len:",
        "elif False:",
        "share",
    ),
    "mirror-moved": one(
        "Peers do not hear that tokens have moved.",
        MIRROR,
        "            self._sent[row].known = 0\n",
        "            pass\n",
        "tardy",
        4,
    ),
    "mirror-unheard": one(
        "Steps that are not computed together are not heard.",
        "adapters/worker/elastic_runtime.py",
        "        self.executor.hear(records)\n",
        "        if self.degree > 1:\n            self.executor.hear(records)\n",
        "faults",
    ),
    "mirror-leased": one(
        "Leased slots of a narrower instance are computed wrongly.",
        "control/layout/slots.py",
        "(ids - FIRST_LEASED) * degree // self.finest,",
        "(ids - FIRST_LEASED) // self.finest * degree,",
        "tardy",
        workers=4,
    ),
    "mirror-in-place": one(
        "A row whose tokens move changes on the host only.",
        "planes/kv/kv_row.py",
        "self._rows.write((self._number, self._tokens), locations)",
        "self._locations.copy_(locations)",
        "tardy",
        workers=4,
    ),
    # Boundary
    "boundary-split": one(
        "b does not move in a split.",
        "control/transform/boundary.py",
        "Boundary(moved.start if self.falls else moved.stop,",
        "Boundary(moved.start,",
    ),
    "boundary-not-reversed": one(
        "A change that failed goes on.",
        "planes/transformation.py",
        "        self.boundary = self.boundary.reversed()\n",
        "",
        "faults",
    ),
    "boundary-not-settled": one(
        "Layers that have moved keep their degree on the way back.",
        "planes/transformation.py",
        "return (self._upper if self.boundary.falls else self._lower)[self._index]",
        "return self._upper[self._index]",
        "faults",
    ),
    # Abort and sleep
    "abort-frees-nobody": one(
        "Whoever waits behind a request that is aborted in the queue waits on.",
        SCHEDULER,
        " or self.first_waiting is not self.first_seen",
        "",
        "eager",
        4,
    ),
    "abort-waits-on": one(
        "A request that waits at the router is not aborted.",
        "control/router/events.py",
        "return self.everything or rid == self.rid",
        "return self.everything",
        "rules",
    ),
    "pause-leaves-peers": one(
        "A paused worker does not meet its peers.",
        SCHEDULER,
        "        if self._engine_paused:\n            self.step_with_peers(None, None)\n",
        "",
        "mixed",
    ),
    "sleep-unrung": one(
        "Whoever gets work wakes nobody.",
        PROTOCOL,
        "yield Ring(tuple(rank for rank in self.ranks if rank != self.rank), tag)",
        "pass",
    ),
}
