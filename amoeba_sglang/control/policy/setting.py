"""The one setting of the policy `amoeba`. It is the same for every workload and device."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """Seconds unless said.

    token_s: the longest mean time between the tokens of a request that batches may be filled up to.
    long_ttft_s: a long request's prefill should take no longer; a higher degree is taken for that.
    linger_s: a merged instance waits so long for its next long request before it splits.
    patience_s: from then on a long request gets its merge although that lends more workers.
    backlog_s: in this time the long requests that wait should be worked off.
    spare: share of the workers' time that estimates of what short requests need leave free.
    pack_s: a long request enters an instance whose long prompts are expected to take no longer.
    base_gain: share by which another base degree must be cheaper to be taken.
    base_dwell_s: the base degree is kept for so long at least.
    base_evidence: requests that must have come lately before the base degree follows them; before
        the first comes, it is that for usual traffic.
    traffic_s: time constant of what counts as lately.
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
