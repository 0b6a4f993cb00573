import asyncio
from dataclasses import asdict
from types import SimpleNamespace

import pytest
from fastapi import HTTPException
from sglang.srt.managers import tokenizer_manager as upstream

from amoeba_sglang.adapters.choice import choose_backend
from amoeba_sglang.adapters.frontend import tokenizer_manager
from amoeba_sglang.adapters.frontend.tokenizer_manager import ElasticTokenizerManager
from amoeba_sglang.adapters.messages import AdminReply, LimitsChanged
from amoeba_sglang.control.router.limits import RequestLimits
from amoeba_sglang.errors import RequestError
from amoeba_sglang.frontend.batches import Batches
from amoeba_sglang.frontend.feed import Feed


class Manager(ElasticTokenizerManager):
    """Without sockets, tokenizer and children: what it sends is kept, and time ends nothing."""

    def __init__(self):
        self.config = SimpleNamespace(max_n=4, run_directory="/nonexistent")
        self.backend = choose_backend("cpu", None)
        self.model_config = SimpleNamespace(vocab_size=1000)
        self.batches = Batches()
        self.feed = self.make_feed()
        self.failure, self.pending, self.load_file = None, {}, "/nonexistent"
        # At start all limits are equal: every worker alone.
        self.changed_limits = RequestLimits(98, 98, 98, (98,))
        self.rid_to_state, self.sent, self.endings = {}, [], []
        self._subprocess_watchdog = None
        self.server_status = upstream.ServerStatus.Up
        self.preferred_sampling_params = None
        self.allow_auto_truncate = False
        self.event_loop = SimpleNamespace(call_later=lambda *args: self.endings.append(args))

    def auto_create_handle_loop(self):
        pass

    async def _async_dispatch_to_scheduler(self, message):
        self.sent.append(message)


@pytest.fixture
def manager(monkeypatch):
    monkeypatch.setattr(upstream.TokenizerManager, "_validate_one_request", lambda *args: None)
    monkeypatch.setattr(
        upstream.TokenizerManager,
        "_create_tokenized_object",
        lambda self, obj, *args: SimpleNamespace(
            sampling_params=SimpleNamespace(
                max_new_tokens=obj.sampling_params.get("max_new_tokens", 128), min_new_tokens=0
            )
        ),
    )
    return Manager()


def request(**sampling_params):
    made = upstream.GenerateReqInput(input_ids=[1], sampling_params=sampling_params)
    made.normalize_batch_and_arguments()
    return made


def test_a_reply_finds_its_request(manager):
    async def ask():
        answer = asyncio.create_task(manager.ask_router("transform", {"degree": 2}))
        await asyncio.sleep(0)
        (message,) = manager.sent
        assert (message.kind, message.body) == ("transform", {"degree": 2})
        manager.handle_reply(AdminReply(rid="someone else", status=500))
        manager.handle_reply(AdminReply(rid=message.rid, status=409, body={"error": "x"}))
        return await answer

    assert asyncio.run(ask()).status == 409
    assert manager.pending == {}


def test_a_silent_router_is_a_504(manager, monkeypatch):
    monkeypatch.setattr(tokenizer_manager, "_STATE_TIMEOUT_SECONDS", 0.01)
    with pytest.raises(RequestError) as error:
        asyncio.run(manager.ask_router("state", {}))
    assert error.value.status == 504
    assert manager.pending == {}


def test_what_no_layout_holds_is_refused(manager):
    manager._validate_one_request(request(max_new_tokens=8), [1] * 90)
    with pytest.raises(ValueError, match="99 tokens"):
        manager._validate_one_request(request(max_new_tokens=9), [1] * 90)
    manager.allow_auto_truncate = True
    manager._validate_one_request(request(max_new_tokens=9), [1] * 90)


def test_what_could_end_a_worker_is_refused(manager):
    with pytest.raises(ValueError, match="input_ids 1000: .* 0 to 999"):
        manager._validate_one_request(request(), [1, 1000])
    with pytest.raises(ValueError, match="n 5: .*4"):
        manager.generate_request(request(n=5))
    with pytest.raises(ValueError, match="beam_width 2: .*beam search"):
        manager.generate_request(request(beam_width=2))


@pytest.fixture
def workers(manager, monkeypatch):
    """What workers are sent: ids of requests, and of aborts with a minus before them."""
    sent = []

    async def send(self, request):
        sent.append(request.rid)

    def abort(self, rid, abort_all=False):
        sent.append(f"-{rid}")

    monkeypatch.setattr(upstream.TokenizerManager, "_send_one_request", send)
    monkeypatch.setattr(upstream.TokenizerManager, "abort_request", abort)
    return sent


def test_others_are_served_between_the_parts_of_a_batch(manager, workers):
    async def send_batch():
        for number in range(3):
            await manager._send_one_request(SimpleNamespace(rid=f"part {number}"))

    async def be_served():
        for _ in range(3):
            workers.append("other")
            await asyncio.sleep(0)

    async def run():
        await asyncio.gather(send_batch(), be_served())

    asyncio.run(run())
    assert workers == ["part 0", "other", "part 1", "other", "part 2", "other"]


def test_a_part_that_is_sent_after_the_abort_of_its_batch_is_aborted(manager, workers):
    state = SimpleNamespace(abort_sent=False, obj=SimpleNamespace(prompt_id="part"))
    with manager.batches.hold("batch", manager.rid_to_state):
        manager.abort_request("batch")
        manager.rid_to_state["part"] = state
        asyncio.run(manager._send_one_request(SimpleNamespace(rid="part")))
        manager.rid_to_state["other"] = SimpleNamespace(abort_sent=True, obj=state.obj)
    asyncio.run(manager._send_one_request(SimpleNamespace(rid="other")))
    # Nobody knew a part of the batch when it was aborted.
    assert workers == ["-batch", "part", "-part", "other", "-other"]
    assert not manager.rid_to_state["other"].abort_sent


def test_a_stream_that_has_ended_aborts_nobody_who_has_its_id_now(manager, monkeypatch):
    monkeypatch.setattr(tokenizer_manager, "_ABORT_AFTER_SECONDS", 0.01)
    aborted = []
    monkeypatch.setattr(manager, "abort_request", aborted.append)
    old = upstream.GenerateReqInput(input_ids=[1], rid="again", sampling_params={})
    old.normalize_batch_and_arguments()

    async def reuse(states):
        manager.rid_to_state["again"] = states[0]
        tasks = asyncio.create_task(manager.create_abort_task(old)())
        await asyncio.sleep(0)
        manager.rid_to_state["again"] = states[-1]
        await tasks

    asyncio.run(reuse([SimpleNamespace(), SimpleNamespace()]))
    assert aborted == []
    asyncio.run(reuse([SimpleNamespace()]))
    assert aborted == ["again"]


def test_a_grammar_that_takes_no_token_is_its_clients_error(manager):
    state = SimpleNamespace(obj=SimpleNamespace(rid="a", lora_path=None), lora_released=False)
    manager.enable_lora = False
    reason = {"type": "abort", "status_code": 500, "message": "Grammar accept_token failed: x"}
    with pytest.raises(ValueError, match="ebnf"):
        asyncio.run(
            manager._handle_abort_finish_reason(
                {"meta_info": {"finish_reason": reason}}, state, False
            )
        )


def test_only_an_open_output_length_is_clipped(manager):
    def served(**params):
        return manager._create_tokenized_object(request(**params), "", [1] * 90).sampling_params

    assert served().max_new_tokens == 8
    assert served(max_new_tokens=3).max_new_tokens == 3
    manager.preferred_sampling_params = {"max_new_tokens": 64}
    with pytest.raises(ValueError, match="154 tokens"):
        manager._validate_one_request(request(), [1] * 90)


def test_an_output_of_any_length_keeps_a_short_prompt_off_the_grown_slots(manager):
    """Chat requests say None without a limit; at an anchor this took grown slots."""
    manager.handle_limits(LimitsChanged(limits=asdict(RequestLimits(98, 158, 248, (98, 158)))))

    def room(prompt, **params):
        created = manager._create_tokenized_object(request(**params), "", [1] * prompt)
        return created.sampling_params.max_new_tokens

    assert room(90, max_new_tokens=None) == 8
    assert room(100, max_new_tokens=None) == 58
    assert room(100) == 58


def test_an_open_output_stays_as_it_is_if_only_another_layout_holds_the_prompt(manager):
    """It became negative, and a request that waited for a merge had an empty answer."""
    for asked, served in (({}, 128), ({"max_new_tokens": None}, None)):
        created = manager._create_tokenized_object(request(**asked), "", [1] * 150)
        assert created.sampling_params.max_new_tokens == served
        assert created.sampling_params.min_new_tokens == 0


def test_failing_answers_everybody_once(manager):
    manager._handle_abort_req = lambda message: answered.append(message)
    manager.rid_to_state = {"a": object(), "b": object()}
    answered = []

    async def fail():
        waiting = asyncio.create_task(manager.ask_router("transform", {}))
        await asyncio.sleep(0)
        manager.fail("worker 1 died")
        manager.fail("and another reason")
        return await waiting

    reply = asyncio.run(fail())
    assert (reply.status, reply.body) == (503, {"error": "worker 1 died"})
    assert [message.rid for message in answered] == ["a", "b"]
    assert all(m.finished_reason["status_code"] == 503 for m in answered)
    assert len(manager.endings) == 1
    with pytest.raises(HTTPException):
        manager._validate_one_request(request(), [1])
    with pytest.raises(HTTPException):
        asyncio.run(manager.ask_router("state", {}))


def test_an_exception_in_the_message_loop_answers_everybody(manager, monkeypatch):
    async def broken(self):
        raise KeyError("rid")

    monkeypatch.setattr(upstream.TokenizerManager, "handle_loop", broken)
    answered = []
    manager._handle_abort_req = answered.append
    manager.rid_to_state = {"a": object()}
    asyncio.run(manager.handle_loop())
    assert [message.rid for message in answered] == ["a"]
    assert len(manager.endings) == 1


def test_one_request_that_cannot_be_answered_does_not_stop_the_others(manager):
    answered = []

    def answer(message):
        if message.rid == "a":
            raise KeyError("a")
        answered.append(message.rid)

    manager._handle_abort_req = answer
    manager.rid_to_state = {"a": object(), "b": object()}
    manager.fail("worker 1 died")
    assert answered == ["b"]
    assert len(manager.endings) == 1


def test_who_looks_is_let_go_when_the_server_is_told_to_end(manager):
    """An open stream would keep the HTTP server from ending."""

    async def view(since):
        return {"now": 1.0}

    async def read():
        manager.feed = Feed(view, dict)
        events = manager.feed.read()
        await anext(events)
        tokenizer_manager.ElasticSignalHandler(manager).sigterm_handler()
        return [event async for event in events]

    [last] = asyncio.run(asyncio.wait_for(read(), 20))
    assert last.startswith(b"event: end\n") and manager.gracefully_exit
