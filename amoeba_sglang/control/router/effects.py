"""What a desk asks its adapter to do, in this order."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from amoeba_sglang.control.router.limits import RequestLimits
from amoeba_sglang.control.router.record import Record
from amoeba_sglang.control.router.request import Request


@dataclass(frozen=True)
class Send:
    """Send a request to its home."""

    rank: int
    request: Request


@dataclass(frozen=True)
class Refuse:
    """End a request that no worker has seen, with 400 or 503 and the reason."""

    request: Request
    status: HTTPStatus
    reason: str


@dataclass(frozen=True)
class Cancel:
    """End a request that no worker has seen, as `abort`, the payload of an Abort, says."""

    request: Request
    abort: object


@dataclass(frozen=True)
class Order:
    """Send this phase ("prepare", "commit", "abort") to every one of `ranks`."""

    phase: str
    operation_id: str
    epoch: int
    ranks: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """Answer the HTTP request `waiter`."""

    waiter: str
    status: int
    body: dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """An operation ended; `record` is its entry in the history, for metrics and logs."""

    record: Record


@dataclass(frozen=True)
class Limits:
    """Tell the front end what requests may have from now on."""

    limits: RequestLimits


@dataclass(frozen=True)
class Forward:
    """Pass a control request on to all workers; each answers for itself."""

    payload: object


@dataclass(frozen=True)
class RefuseControl:
    """Answer a control request in the place of every worker: it is refused."""

    payload: object
    reason: str


@dataclass(frozen=True)
class AskIdle:
    """Ask all workers whether they are idle."""

    number: int


@dataclass(frozen=True)
class Flush:
    """Tell all workers to flush their caches; each answers for itself."""


@dataclass(frozen=True)
class End:
    """There is no way back: the server must end."""

    reason: str


Effect = (
    Send | Refuse | Cancel | Order | Answer | Finished | Limits | Forward | RefuseControl | AskIdle
    | Flush | End
)  # fmt: skip
