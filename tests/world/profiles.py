"""What the walks of a world are like: each keeps the protocol in change in another way."""

from dataclasses import dataclass

from tests.world.setting import Setting


@dataclass(frozen=True)
class Profile:
    """Of a walk of `seconds`. arrivals: requests a second; change: seconds between two orders of
    operators, 0 for none.

    Shares of requests, 0 to 1: `long`, too long for one worker's own pool; `near`, within a few
    tokens of what a worker or instance can hold; `leave`, whose client goes away; `grammar`,
    `logprobs`, `open` (no end is asked for), `named` (a rank is), `several` (answers are),
    `may_stop` (the text may end before). So often a second happen `fault`, `refuse`, `slow`,
    `late`, `pause`, `flush`, `abort_all`, `strike`, `weights`, `lose`. slow_s, late_s, weights_s:
    how long at most. burst: arrivals come this much denser or thinner in turn. texts: common
    beginnings, of which a prompt has all but its last token with probability `same`, else half or
    nothing.
    """

    setting: Setting
    seconds: float = 8.0
    arrivals: float = 8.0
    burst: float = 3.0
    change: float = 0.1
    long: float = 0.3
    near: float = 0.4
    leave: float = 0.15
    grammar: float = 0.0
    logprobs: float = 0.0
    open: float = 0.0
    named: float = 0.0
    several: float = 0.0
    may_stop: float = 0.0
    fault: float = 0.05
    refuse: float = 0.0
    slow: float = 0.0
    slow_s: float = 0.3
    late: float = 0.0
    late_s: float = 0.5
    pause: float = 0.0
    flush: float = 0.0
    abort_all: float = 0.0
    strike: float = 1.0
    weights: float = 0.0
    weights_s: float = 1.0
    lose: float = 0.0
    texts: int = 4
    same: float = 0.3


def _small(**changes: object) -> Setting:
    return Setting(**{"tokens": 64, "chunk": 16, **changes})  # type: ignore[arg-type]


PROFILES = {
    # All kinds of events, at a middling pace.
    "mixed": Profile(
        _small(),
        grammar=0.1,
        logprobs=0.1,
        open=0.1,
        named=0.05,
        slow=0.5,
        late=0.3,
        refuse=0.1,
        pause=0.1,
        flush=0.2,
        abort_all=0.05,
        several=0.1,
        weights=0.1,
    ),
    # Hardly a moment without an order.
    "busy": Profile(_small(), seconds=10.0, change=0.05, strike=2.0),
    # Long requests of nearly all that an instance holds.
    "dense": Profile(_small(), seconds=10.0, arrivals=4.0, long=0.5, near=0.7, change=0.25),
    # Leases: long requests that need just more than grown slots; short ones beside them.
    "leases": Profile(_small(grown=0.5), arrivals=6.0, long=0.4, near=0.6, change=0.5),
    # A mixture of experts, of whose weights a merge frees nearly all: the plan's for Qwen3-30B-A3B.
    "mixture": Profile(_small(grown=5.3), arrivals=5.0, long=0.4, near=0.5, change=0.25),
    # Common prefixes of long and short requests, whose ends let the tree keep what long ones had.
    "share": Profile(_small(), long=0.35, near=0.2, change=0.08, leave=0.25, texts=1),
    # Long requests with the same prompts end and come again in the middle of long changes.
    "tails": Profile(
        _small(layers=30),
        seconds=6.0,
        arrivals=16.0,
        long=0.6,
        near=0.0,
        change=0.05,
        leave=0.3,
        texts=1,
        same=0.8,
        strike=3.0,
    ),
    # KV pages of several tokens.
    "pages": Profile(_small(tokens=128, page=4), grammar=0.05, logprobs=0.1, open=0.1, change=0.08),
    # The layout follows long requests by itself.
    "rules": Profile(
        _small(policy="amoeba"),
        seconds=12.0,
        arrivals=5.0,
        change=0.0,
        open=0.1,
        grammar=0.05,
        refuse=0.1,
        late=0.2,
        several=0.1,
    ),
    # Rules and operators at once.
    "rivals": Profile(_small(policy="amoeba"), seconds=12.0, arrivals=5.0, change=1.0),
    # Steps of a minute beside steps of a millisecond.
    "slow": Profile(
        _small(),
        seconds=40.0,
        arrivals=3.0,
        change=1.0,
        slow=0.1,
        slow_s=70.0,
        late=0.1,
        late_s=25.0,
        near=0.2,
        weights=0.05,
        weights_s=30.0,
    ),
    # Grammars that compile through votes and changes.
    "grammar": Profile(_small(), grammar=0.6, long=0.5, change=0.2, arrivals=6.0),
    # Requests with priorities, which preempt others.
    "ranked": Profile(_small(priorities=True), change=0.15),
    # Two groups under one router.
    "groups": Profile(_small(groups=2), arrivals=12.0, change=0.08),
    # Mappings fail all the time.
    "faults": Profile(_small(), fault=3.0, refuse=1.0, change=0.05, arrivals=5.0),
    # More is admitted than fits, so that requests are retracted; and orders come late, when long
    # requests may have used up what was kept for their change.
    "eager": Profile(
        _small(conservativeness=0.01),
        arrivals=16.0,
        long=0.2,
        near=0.2,
        change=0.1,
        late=3.0,
        late_s=0.2,
        may_stop=1.0,
    ),
    # Votes reach the router long after they were given: by then a long request that runs on would
    # have used up what was lent for its change, and must wait.
    "tardy": Profile(
        _small(grown=0.1),
        seconds=5.0,
        arrivals=5.0,
        long=0.5,
        near=0.0,
        leave=0.0,
        change=0.15,
        fault=0.0,
        strike=0.0,
        late=10.0,
        late_s=0.3,
        texts=16,
        same=0.0,
    ),
    # Prompts with several answers, and weights that are updated or read beside changes.
    "samples": Profile(_small(), several=0.5, weights=0.5, arrivals=5.0, change=0.3, pause=0.1),
    # A worker is lost: everybody gets an answer, and nobody waits for ever.
    "ends": Profile(_small(), seconds=4.0, lose=0.5, change=0.1),
}
