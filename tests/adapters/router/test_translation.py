"""SGLang's messages as events, and effects as SGLang's messages."""

from http import HTTPStatus
from types import SimpleNamespace

import pytest
from sglang.srt.managers import io_struct

from amoeba_sglang.adapters.messages import AdminRequest, WeightsRefused
from amoeba_sglang.adapters.router import translation
from amoeba_sglang.control.router.effects import Order, RefuseControl
from amoeba_sglang.control.router.events import (
    Abort,
    FlushAsked,
    LoadAsked,
    PauseAsked,
    StateAsked,
    TransformAsked,
    WeightsAsked,
)

TRANSFORM = {"ranks": [0, 1], "degree": 2, "operation_id": "op", "wait": True}
UPDATE = io_struct.UpdateWeightFromDiskReqInput(model_path="m")
READ = io_struct.GetWeightsByNameReqInput(name="w")
FLUSH = io_struct.FlushCacheReqInput(timeout_s=3.0)


@pytest.mark.parametrize(
    ("message", "kind", "fields"),
    [
        (io_struct.AbortReq(rid="a"), Abort, ("a", False)),
        (io_struct.AbortReq(abort_all=True), Abort, ("", True)),
        (UPDATE, WeightsAsked, ("updated",)),
        (READ, WeightsAsked, ("read",)),
        (FLUSH, FlushAsked, (3.0,)),
        (io_struct.PauseGenerationReqInput(), PauseAsked, (True,)),
        (io_struct.ContinueGenerationReqInput(), PauseAsked, (False,)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_desk_judges_keeps_the_message(message, kind, fields):
    assert type(message) in translation.JUDGED
    assert translation.to_event(message) == kind(*fields, message)


@pytest.mark.parametrize(("kind", "event"), [("state", StateAsked), ("load", LoadAsked)])
def test_questions_keep_who_waits(kind, event):
    assert translation.to_event(AdminRequest(rid="w", kind=kind)) == event("w")


def test_an_order_of_a_person_is_read():
    event = translation.to_event(AdminRequest(rid="w", kind="transform", body=TRANSFORM))
    assert isinstance(event, TransformAsked) and event.waiter == "w"
    assert (event.transform.ranks, event.transform.degree) == ((0, 1), 2)
    assert event.transform.operation_id == "op" and event.transform.wait


def test_a_request_without_ids_or_limit_has_neither():
    message = SimpleNamespace(
        rid="r", input_ids=None, routed_dp_rank=2,
        sampling_params=SimpleNamespace(max_new_tokens=None),
    )  # fmt: skip
    found = translation.to_request(message)
    assert (found.rid, found.prompt_tokens, found.output_tokens) == ("r", 0, None)
    assert (found.rank, found.payload) == (2, message) and len(found.token_ids) == 0


def test_an_order_travels_in_lists():
    order = Order("commit", "op", 7, (0, 1), (1, 1), (2, 2))
    sent = translation.to_order(order)
    assert (sent.phase, sent.operation_id, sent.epoch) == ("commit", "op", 7)
    assert (sent.ranks, sent.before, sent.after) == ([0, 1], [1, 1], [2, 2])


@pytest.mark.parametrize("message", [UPDATE, READ, FLUSH], ids=lambda one: type(one).__name__)
def test_a_refusal_is_what_a_worker_would_answer(message):
    answer = translation.refusal_of(RefuseControl(message, "busy"))
    if message is READ:
        assert isinstance(answer, WeightsRefused)
        assert (answer.parameter, answer.reason) == (None, "busy")
    else:
        assert (answer.success, answer.message) == (False, "busy")


def test_what_nobody_refuses_is_a_bug():
    with pytest.raises(AssertionError):
        translation.refusal_of(RefuseControl(io_struct.AbortReq(rid="a"), "busy"))


@pytest.mark.parametrize(
    ("status", "name"),
    [
        (HTTPStatus.BAD_REQUEST, "BadRequestError"),
        (HTTPStatus.SERVICE_UNAVAILABLE, "ServiceUnavailableError"),
    ],
)
def test_a_refused_request_ends_with_status_and_openai_s_name_of_the_error(status, name):
    reason = translation.refusal_reason(status, "why")
    assert reason == {"type": "abort", "message": "why", "status_code": status, "err_type": name}
    request = SimpleNamespace(rid="r", payload=SimpleNamespace(http_worker_ipc="ipc"))
    ended = translation.end(request, reason)
    assert (ended.rid, ended.http_worker_ipc, ended.finished_reason) == ("r", "ipc", reason)
