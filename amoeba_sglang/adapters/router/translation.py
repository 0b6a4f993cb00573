"""SGLang's messages as what a desk is told, and what a desk decides as SGLang's messages."""

from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from sglang.srt.environ import envs
from sglang.srt.managers import io_struct

from amoeba_sglang.adapters.backend import Backend
from amoeba_sglang.adapters.messages import AdminRequest, TransformOrder, WeightsRefused
from amoeba_sglang.clock import Clock
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.router import events
from amoeba_sglang.control.router.effects import Order, RefuseControl
from amoeba_sglang.control.router.events import Event
from amoeba_sglang.control.router.limits import Capacity
from amoeba_sglang.control.router.loads import Snapshot
from amoeba_sglang.control.router.request import Request
from amoeba_sglang.control.router.terms import Terms
from amoeba_sglang.control.router.transform_request import TransformRequest
from amoeba_sglang.control.router.waiting_limits import WaitingLimits

_ERRORS = {
    HTTPStatus.BAD_REQUEST: "BadRequestError",
    HTTPStatus.SERVICE_UNAVAILABLE: "ServiceUnavailableError",
}
# What a desk judges; the dispatcher passes on the others.
JUDGED = (
    io_struct.AbortReq,
    AdminRequest,
    io_struct.UpdateWeightFromDiskReqInput,
    io_struct.GetWeightsByNameReqInput,
    io_struct.FlushCacheReqInput,
    io_struct.PauseGenerationReqInput,
    io_struct.ContinueGenerationReqInput,
)


def to_terms(
    config: AmoebaConfig, backend: Backend, worker: dict[str, Any], truncates: bool
) -> Terms:
    """What a desk needs to know of a server; `worker`: the init info that all workers gave."""
    waiting_s = envs.SGLANG_REQ_WAITING_TIMEOUT.get()
    return Terms(
        policy=POLICIES[config.policy],
        chain=DegreeChain(config.degrees),
        capacity=Capacity(**worker["capacity"]),
        waiting=WaitingLimits(
            config.workers, worker["max_queued"], waiting_s if waiting_s > 0 else None
        ),
        workers=config.workers,
        layers=config.layers,
        initial_degree=config.initial_degree,
        max_rows=worker["max_rows"],
        prepare_timeout_s=config.prepare_timeout_s,
        finish_timeout_s=config.finish_timeout_s,
        truncates=truncates,
        saved_table=config.throughput_table,
        plane=backend.name,
        emulated=backend.description,
        no_weights=backend.no_weights,
    )


def to_request(message: Any) -> Request:
    """Of what the tokenizer sends."""
    ids = message.input_ids or ()
    return Request(
        rid=message.rid,
        prompt_tokens=len(ids),
        output_tokens=message.sampling_params.max_new_tokens,
        rank=message.routed_dp_rank,
        token_ids=ids,
        payload=message,
    )


def to_event(message: Any) -> Event:
    """Of one of JUDGED."""
    match message:
        case io_struct.AbortReq():
            return events.Abort(message.rid, message.abort_all, message)
        case io_struct.UpdateWeightFromDiskReqInput():
            # They are loaded by name into unsharded layers.
            return events.WeightsAsked("updated", message)
        case io_struct.GetWeightsByNameReqInput():
            # A worker of a merged instance has only its shard.
            return events.WeightsAsked("read", message)
        case io_struct.FlushCacheReqInput():
            return events.FlushAsked(message.timeout_s, message)
        case io_struct.PauseGenerationReqInput():
            return events.PauseAsked(True, message)
        case io_struct.ContinueGenerationReqInput():
            return events.PauseAsked(False, message)
    assert isinstance(message, AdminRequest) and message.rid is not None, message
    if message.kind == "transform":
        return events.TransformAsked(message.rid, TransformRequest.from_body(message.body))
    if message.kind == "view":
        return events.ViewAsked(message.rid, message.body["since"])
    return {"state": events.StateAsked, "load": events.LoadAsked}[message.kind](message.rid)


def to_snapshot(published: Any, clock: Clock, now: float) -> Snapshot:
    """Of an SGLang LoadSnapshot, whose time is that of the last look for requests before it."""
    return Snapshot(
        rank=published.dp_rank,
        taken_at=now - clock.since(published.timestamp),
        running=published.num_running_reqs,
        waiting=published.num_waiting_reqs,
        tokens=published.num_total_tokens,
        to_prefill=published.num_waiting_uncached_tokens,
        used_tokens=published.num_used_tokens,
        held_tokens=published.max_total_num_tokens,
    )


def to_order(order: Order) -> TransformOrder:
    fields = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(order).items()
    }
    return TransformOrder(**fields)


def refusal_of(effect: RefuseControl) -> Any:
    """What a worker would answer that refuses a control request."""
    match effect.payload:
        case io_struct.UpdateWeightFromDiskReqInput():
            return io_struct.UpdateWeightFromDiskReqOutput(success=False, message=effect.reason)
        case io_struct.GetWeightsByNameReqInput():
            return WeightsRefused(parameter=None, reason=effect.reason)
    assert isinstance(effect.payload, io_struct.FlushCacheReqInput), effect
    return io_struct.FlushCacheReqOutput(success=False, message=effect.reason)


def refusal_reason(status: HTTPStatus, reason: str) -> dict[str, Any]:
    """The finish reason of a request that is refused."""
    return {
        "type": "abort",
        "message": reason,
        "status_code": status,
        "err_type": _ERRORS[status],
    }


def end(request: Request, finished_reason: dict[str, Any] | None) -> io_struct.AbortReq:
    """The end of a request that no worker has seen."""
    message: Any = request.payload
    return io_struct.AbortReq(
        rid=request.rid, http_worker_ipc=message.http_worker_ipc, finished_reason=finished_reason
    )
