"""What a desk is told, besides the reports of workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from amoeba_sglang.control.reports import FromWorker
from amoeba_sglang.control.router.loads import Snapshot
from amoeba_sglang.control.router.request import Request
from amoeba_sglang.control.router.transform_request import TransformRequest


@dataclass(frozen=True)
class Opened:
    """Requests may come: from here on the policy may change the layout."""


@dataclass(frozen=True)
class Arrival:
    """A request has come."""

    request: Request


@dataclass(frozen=True)
class Abort:
    """The client gives up the request `rid`, or all of them; `payload`: for the workers."""

    rid: str
    everything: bool = False
    payload: object = None

    def names(self, rid: str) -> bool:
        """Whether it means this request: all, or exactly this id."""
        return self.everything or rid == self.rid


@dataclass(frozen=True)
class StateAsked:
    """`GET /amoeba/state`; `waiter` is who gets the answer."""

    waiter: str


@dataclass(frozen=True)
class ViewAsked:
    """What has changed after `since`, a time that an earlier answer said; None: everything."""

    waiter: str
    since: float | None


@dataclass(frozen=True)
class LoadAsked:
    """`GET /get_load`."""

    waiter: str


@dataclass(frozen=True)
class TransformAsked:
    """`POST /amoeba/transform`."""

    waiter: str
    transform: TransformRequest


@dataclass(frozen=True)
class LoadsRead:
    """What the workers have published of their loads, one snapshot each."""

    snapshots: Sequence[Snapshot]


@dataclass(frozen=True)
class WeightsAsked:
    """A control request that reads or updates weights by name."""

    what: Literal["read", "updated"]
    payload: object


@dataclass(frozen=True)
class FlushAsked:
    """A control request to flush all caches, within `timeout_s` seconds if not at once."""

    timeout_s: float | None
    payload: object = None


@dataclass(frozen=True)
class PauseAsked:
    """A control request to pause generation, or to continue it."""

    paused: bool
    payload: object


@dataclass(frozen=True)
class Tick:
    """Time has passed. Told after every other event and at least every 100 ms."""


Event = (
    Opened | Arrival | Abort | StateAsked | ViewAsked | LoadAsked | TransformAsked | LoadsRead
    | WeightsAsked | FlushAsked | PauseAsked | Tick | FromWorker
)  # fmt: skip
