"""How many workers may be lent to long requests at a time."""

from amoeba_sglang.control.policy.base import LongRequest, Scene
from amoeba_sglang.control.policy.outlook import Outlook
from amoeba_sglang.control.policy.setting import Setting

# Without a table: shares of all workers, while one long request waits, and while more do.
_USUAL_SHARE, _BACKLOG_SHARE = 0.5, 0.75


def allow_lending(
    request: LongRequest, degree: int, scene: Scene, setting: Setting, outlook: Outlook | None
) -> int:
    """Workers that may be in merged instances if one of `degree` is made for `request`.

    What short requests leave free, or, if there is less than the long ones need, their share of all
    work. Those that wait are counted as work for the next `backlog_s`. Never less than `degree`,
    and all after `patience_s`, so that nobody waits forever. `outlook`: None before step costs
    are known.
    """
    workers = scene.layout.workers
    if scene.now - request.since >= setting.patience_s:
        return workers
    if scene.table is None or outlook is None:
        share = _USUAL_SHARE if scene.backlog <= 1 else _BACKLOG_SHARE
        return max(degree, int(share * workers))
    each = outlook.long_work_s or degree * scene.table.prompt_seconds(degree, request.prompt_tokens)
    long = outlook.long + scene.backlog * each / setting.backlog_s
    short = outlook.short / (1 - setting.spare)
    spare = max(workers - short, workers * long / max(1e-9, long + short))
    return min(workers, max(degree, round(spare / degree) * degree))
