"""Control messages between HTTP front end, router and workers, over SGLang's own ZMQ sockets.

    front end -> router     AdminRequest       the tokenizer's PUSH socket, as requests go
    router -> worker        TransformOrder, IdleQuestion
                                               the worker's request socket, in order with requests
    worker -> router        WorkerReport       the router's PULL socket, config.report_address
    router -> front end     AdminReply, Fatal, LimitsChanged, WeightsRefused
                                               the socket that the tokenizer manager already pulls

One transformation: PREPARE to every rank of the block -> one VOTE each -> COMMIT or ABORT ->
PROGRESS -> one DONE each.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.managers import io_struct


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
    """What a worker tells the router.

    kind "long requests": other ones than before wait or live at the worker; body {"request_ids":
        all of them, "ended": those that have come since the last one and are gone}.
    kind "idle": body {"number": of the IdleQuestion, "idle": bool}.
    kind "steps": what steps have cost since the last such report, from the first worker of an
        instance; body {"sums": of StepMeter.take}, on an emulated server also {"busy_seconds",
        "late_seconds"} of its Timeline since the start.
    kind "vote": body {"accept": bool, "reason": str}.
    kind "progress": from the first rank of the block, after every move of layers but the last; body
        {"boundary": b, "pace": why as many layers move at a time}.
    kind "done": the worker steps at its new degree, or with an "error" at its old one again; body
        {"seconds" from COMMIT to here, "lockstep_seconds" from COMMIT until the whole block had
        arrived, "step_seconds" of the slowest step in which the COMMIT waited,
        "longest_step_seconds" between two joint steps that a move took, "moves", "pause_seconds",
        "settle_seconds", "copy_seconds", "pace" and "error" of its TransformReport, "bytes_moved":
        {"kv": n, "weights": n}}.
    """

    kind: str
    rank: int
    operation_id: str = ""
    epoch: int = 0
    body: dict[str, Any] = {}


io_struct.hook_custom_types(
    AdminRequest, AdminReply, Fatal, LimitsChanged, WeightsRefused, TransformOrder, IdleQuestion,
    WorkerReport,
)  # fmt: skip
