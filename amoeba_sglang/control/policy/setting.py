"""The one setting of the policy `amoeba`. It is the same for every workload and device."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """Seconds unless said.

    token_s: the longest mean time between two tokens of a request: estimates fill batches so far.
    long_ttft_s: the longest that a long prompt should take; a higher degree is chosen to meet it.
    linger_s: how long a merged instance waits for its next long request before it splits.
    patience_s: after this wait a long request gets its merge, however many workers are lent.
    backlog_s: the time in which the waiting long requests should be served.
    spare: headroom above the estimated load of short requests (0.1: 10 % of the workers' time).
    pack_s: a long request queues behind other long prompts if they need at most this long.
    base_gain: the share of workers that another base degree must save to be chosen.
    base_dwell_s: the shortest time between two choices of the base degree.
    base_evidence: recent requests that are needed before the base degree follows them; before the
        first one comes, it is chosen for usual traffic.
    traffic_s: the time constant of "recent".
    """

    token_s: float = 0.1
    long_ttft_s: float = 90.0
    linger_s: float = 2.0
    patience_s: float = 120.0
    backlog_s: float = 240.0
    spare: float = 0.1
    pack_s: float = 1.0
    base_gain: float = 0.05
    base_dwell_s: float = 60.0
    base_evidence: float = 100.0
    traffic_s: float = 120.0


SETTING = Setting()
