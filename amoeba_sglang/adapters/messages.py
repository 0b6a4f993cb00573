"""Control messages between HTTP front end, router and workers, over SGLang's own ZMQ sockets.

    front end -> router     AdminRequest       the tokenizer's PUSH socket, as requests go
    router -> worker        TransformOrder, IdleQuestion
                                               the worker's request socket, in order with requests
    worker -> router        WorkerReport       the router's PULL socket, config.report_address
    router -> front end     AdminReply, Fatal, LimitsChanged, WeightsRefused
                                               the socket that the tokenizer manager already pulls

One transformation: PREPARE to every rank of the block -> one Vote each -> COMMIT or ABORT ->
Progress -> one Done each; these and the other reports are in reports.py.
"""

from typing import Any

from sglang.srt.managers import io_struct

from amoeba_sglang.control.reports import Report


class AdminRequest(io_struct.BaseReq, kw_only=True):
    """`kind` is "state", "load" or "transform"; `rid` pairs the reply with its HTTP request.

    Body of a transform: the JSON the client sent, with `operation_id` filled in.
    """

    kind: str
    body: dict[str, Any] = {}


class AdminReply(io_struct.BaseReq, kw_only=True):
    """`status` is the HTTP status, `body` the JSON answer."""

    status: int
    body: dict[str, Any] = {}


class Fatal(io_struct.BaseReq, kw_only=True):
    """The server cannot go on: fail every client with `reason`, then exit with code 1."""

    reason: str


class LimitsChanged(io_struct.BaseReq, kw_only=True):
    """The layout has changed; `limits` are the fields of the RequestLimits that hold from now."""

    limits: dict[str, Any]


class WeightsRefused(io_struct.GetWeightsByNameReqOutput, kw_only=True):
    """In the place of weights that cannot be read now; `parameter` is None."""

    reason: str


class TransformOrder(io_struct.BaseReq, kw_only=True):
    """`phase` is "prepare", "commit" or "abort". `ranks` is the aligned block that changes.

    `before` and `after` are degrees per rank of the block. `epoch` numbers transformations.
    """

    phase: str
    operation_id: str
    epoch: int
    ranks: list[int]
    before: list[int]
    after: list[int]


class IdleQuestion(io_struct.BaseReq, kw_only=True):
    """Whether the worker could flush its cache now; `number` pairs the answer with it."""

    number: int


class WorkerReport(io_struct.BaseReq, kw_only=True):
    """The envelope of what a worker tells the router."""

    report: Report


_TYPES = (
    AdminRequest, AdminReply, Fatal, LimitsChanged, WeightsRefused, TransformOrder, IdleQuestion,
    WorkerReport,
)  # fmt: skip
io_struct.hook_custom_types(*_TYPES)
