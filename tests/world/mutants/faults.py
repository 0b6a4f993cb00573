"""Faults of slots, votes, limits and queues that were found by reading, as they were before they
were mended."""

from tests.world.mutants.files import BUDGET, LEDGER, LOANS, PROTOCOL, REQUESTS
from tests.world.mutants.mutant import Mutant, one

FAULTS = {
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
    "fault-b-limits": one(
        "A worker in mid-change takes only what its own slots hold.",
        PROTOCOL,
        "yield Limits((order.before[place], order.after[place]))",
        "yield Limits((1,))",
        workers=4,
    ),
    "fault-1-prepare-takes": one(
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
    "fault-2-lender-last": one(
        "A lender's own requests never go first.",
        LOANS,
        "due, goes_first = self._due(), self._waiter.since < self._ask.since",
        "due, goes_first = self._due(), False",
        "leases",
    ),
    "fault-6-grammar": one(
        "Requests whose grammar compiles are not seen.",
        REQUESTS,
        "[*self._scheduler.waiting_queue, *self._scheduler.grammar_manager.grammar_queue]",
        "[*self._scheduler.waiting_queue]",
        "grammar",
    ),
    "fault-7-growth": one(
        "More room wakes nobody.",
        LEDGER,
        "        return grew\n",
        "        return False\n",
        "leases",
    ),
    "fault-8-twice": one(
        "Peers lend twice what is lacking.",
        LOANS,
        "self._unmet = max(0, anchor.wanted - sum(len(one.lent) for one in news))",
        "self._unmet = anchor.wanted",
        "leases",
    ),
    "fault-9-never-home": one(
        "Leases come home only when no long request lives.",
        LOANS,
        "        self._extra.end_leases(returned)\n",
        "        returned = no_slots() if claims.live_long else returned\n"
        "        self._extra.end_leases(returned)\n",
        "leases",
    ),
}
