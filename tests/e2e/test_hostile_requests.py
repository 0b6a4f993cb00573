"""Requests that ended a server or got a wrong answer, each beside ordinary streams."""

import asyncio
import json
import threading
import time
import urllib.request

import pytest

from tests.serving.load import chat_prompts, run_clients

VOCABULARY = 49_152
EXPONENTIAL = "(a|aa)+[bc][de]"


def params(**sampling_params):
    return {"text": "a", "sampling_params": sampling_params}


# (route, body, what the refusal must name)
CHAT = {"messages": [{"role": "user", "content": "a"}]}
REFUSED = [
    ("/generate", {"input_ids": [1, 2, 2**40]}, "input_ids"),
    ("/generate", {"input_ids": [1, VOCABULARY]}, "input_ids"),
    ("/generate", {"input_ids": [[1], [1, -1]]}, "input_ids"),
    ("/generate", {"text": "\ud800"}, "surrogate"),
    ("/generate", {"text": "a", "rid": ["a", "b"]}, "rid"),
    ("/generate", {"text": "a", "rid": "HEALTH_CHECK_1"}, "rid"),
    ("/generate", {"text": "a", "http_worker_ipc": "ipc:///tmp/x"}, "http_worker_ipc"),
    ("/generate", {"text": "a", "return_logprob": True, "top_logprobs_num": -1}, "logprobs"),
    ("/generate", {"text": "a", "return_logprob": True, "token_ids_logprob": [-1]}, "token_ids"),
    ("/generate", {"text": ["a", "b"], "sampling_params": []}, "sampling_params"),
    ("/generate", params(n=50_000), "n 50000"),
    ("/generate", params(stream_interval=0), "stream_interval"),
    ("/generate", params(temperature="hot"), "temperature"),
    ("/generate", params(top_k=[]), "top_k"),
    ("/generate", params(stop_token_ids=[2**40]), "stop_token_ids"),
    ("/generate", params(stop_token_ids=[-1], min_new_tokens=4), "stop_token_ids"),
    ("/generate", params(is_normalized=True), "is_normalized"),
    ("/generate", params(stop_regex="(a{1000}){1000}"), "stop_regex"),
    ("/generate", params(regex="(" * 99 + "a" + ")" * 99), "regex"),
    ("/generate", params(json_schema='{"type":"string","maxLength":1000000000}'), "maxLength"),
    ("/v1/completions", {"prompt": [1, 2**40]}, "input_ids"),
    ("/v1/completions", {"prompt": "a", "logprobs": 1_000_000}, "logprobs"),
    ("/v1/completions", {"prompt": "a", "logprobs": -1}, "logprobs"),
    ("/v1/completions", {"prompt": "a", "n": 50_000}, "n 50000"),
    ("/v1/completions", {"prompt": ["a"] * 5000}, "5000 sequences"),
    ("/v1/completions", {"prompt": "a", "stop_token_ids": [VOCABULARY]}, "stop_token_ids"),
    ("/v1/completions", {"prompt": "a", "logit_bias": {str(VOCABULARY): 1}}, "logit_bias"),
    ("/v1/chat/completions", {**CHAT, "n": 129}, "n 129"),
    ("/v1/chat/completions", {**CHAT, "logprobs": True, "top_logprobs": 10**6}, "logprobs"),
    ("/v1/chat/completions", 7, "body"),
    ("/v1/chat/completions", {**CHAT, "session_params": {"id": "a"}}, "session_params"),
    ("/v1/chat/completions", {**CHAT, "chat_template_kwargs": 5}, "chat_template_kwargs"),
    ("/v1/responses", {"input": "a", "max_output_tokens": 2**40}, "max_output_tokens"),
    ("/detokenize", {"tokens": [VOCABULARY]}, "tokens"),
    ("/api/generate", {"prompt": "a", "options": {"frequency_penalty": 2.1}}, "frequency_penalty"),
    ("/vertex_generate", {"instances": [{"text": "a"}]}, "vertex_generate"),
]


@pytest.fixture(scope="module")
def plain(pair):
    """What ordinary chats answer when nothing else happens."""
    return [s.text for s in streams(pair)]


def streams(server, beside=None):
    return asyncio.run(run_clients(server.url, chat_prompts(8), 8, 24, beside=beside))


def test_hostile_requests_are_refused_by_name_and_nobody_notices(pair_at, plain):
    async def attack(done):
        return await asyncio.to_thread(send_all)

    def send_all():
        for route, body, name in REFUSED:
            if isinstance(body, dict):
                body = {"model": "m", **body}
            status, reply = pair_at.post(route, body, timeout=30)
            assert status == 400, (body, reply)
            assert name in json.dumps(reply), reply

    found = streams(pair_at, beside=attack)
    assert not [s.error for s in found if s.error]
    assert [s.text for s in found] == plain


def test_extreme_values_that_are_allowed_are_served(pair_at):
    params = {
        "max_new_tokens": 4, "temperature": 1e6, "top_k": 1 << 30, "sampling_seed": -(2**63),
        "stop_token_ids": [0, VOCABULARY - 1], "min_new_tokens": 4, "repetition_penalty": 2,
        "logit_bias": {"0": -1e9, str(VOCABULARY - 1): 1e9}, "stream_interval": 2**31 - 1,
    }  # fmt: skip
    body = {
        "input_ids": [0, VOCABULARY - 1], "sampling_params": params, "return_logprob": True,
        "top_logprobs_num": VOCABULARY, "token_ids_logprob": [0, VOCABULARY - 1],
        "priority": None,
    }  # fmt: skip
    status, reply = pair_at.post("/generate", body)
    assert status == 200, reply
    assert reply["meta_info"]["completion_tokens"] == 4
    assert len(reply["meta_info"]["output_top_logprobs"][0]) == VOCABULARY


def test_a_stop_regex_that_backtracks_for_ever_ends_its_own_request_alone(pair_at, plain):
    body = {
        "text": "a",
        "sampling_params": {
            "regex": "a{60}", "stop_regex": EXPONENTIAL, "max_new_tokens": 80, "temperature": 0
        },
    }  # fmt: skip

    async def attack(done):
        status, reply = await asyncio.to_thread(pair_at.post, "/generate", body)
        assert status == 400, reply
        assert "stop_regex" in json.dumps(reply)

    found = streams(pair_at, beside=attack)
    assert [s.text for s in found] == plain


class Stream(threading.Thread):
    """A streaming request whose events are read on a thread of its own.

    `ends`: the finish reason of every sequence by its index, None while it runs.
    """

    def __init__(self, server, text, rid, tokens=120, **params):
        super().__init__(daemon=True)
        params = {"max_new_tokens": tokens, "ignore_eos": True, "temperature": 0, **params}
        body = {"text": text, "rid": rid, "stream": True, "sampling_params": params}
        self.request = urllib.request.Request(
            f"{server.url}/generate", json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )  # fmt: skip
        self.ends = {}
        self.start()

    def run(self):
        with urllib.request.urlopen(self.request, timeout=120) as reply:
            for line in reply:
                if line.startswith(b"data: {"):
                    event = json.loads(line[len(b"data: ") :])
                    reason = event["meta_info"]["finish_reason"]
                    self.ends[event.get("index", 0)] = reason and reason["type"]

    def wait_for(self, sequences):
        """Return when as many have begun."""
        deadline = time.monotonic() + 60
        while len(self.ends) < sequences:
            assert time.monotonic() < deadline, self.ends
            time.sleep(0.005)

    def finish(self):
        """The finish reasons, by index."""
        self.join(120)
        return [self.ends[index] for index in sorted(self.ends)]


def test_an_abort_ends_the_one_that_is_named(pair_at):
    rids = ("job-1", "job-10", "job-11", "job-")
    streams = {rid: Stream(pair_at, "Once upon a time", rid) for rid in rids}
    for stream in streams.values():
        stream.wait_for(1)
    assert pair_at.post("/abort_request", {"rid": "job-1"})[0] == 200
    ends = {rid: stream.finish() for rid, stream in streams.items()}
    assert ends == {rid: ["abort" if rid == "job-1" else "length"] for rid in rids}


@pytest.mark.parametrize(
    ("text", "rid", "n", "ended"),
    [
        (["Once upon", "A long time"], "batch", 1, [0, 1]),
        ("Once upon", "batch", 3, [0, 1, 2]),
        (["Once upon", "A long time"], ["batch", "other"], 2, [0, 1]),
    ],
    ids=["batch", "samples", "samples of one prompt"],
)
def test_the_id_of_a_batch_ends_its_parts(pair_at, text, rid, n, ended):
    sequences = n * (len(text) if isinstance(text, list) else 1)
    stream = Stream(pair_at, text, rid, n=n)
    stream.wait_for(sequences)
    assert pair_at.post("/abort_request", {"rid": "batch"})[0] == 200
    expected = ["abort" if index in ended else "length" for index in range(sequences)]
    assert stream.finish() == expected


def test_an_id_can_be_used_again_at_once(pair_at):
    assert Stream(pair_at, "Once upon", "again", tokens=2).finish() == ["length"]
    # The second one outlives the 2 s after which the first one's leftovers are aborted.
    assert pair_at.post("/slow_down", {"forward_sleep_time": 0.1})[0] == 200
    started = time.monotonic()
    second = Stream(pair_at, "Once upon", "again", tokens=40)
    ends, seconds = second.finish(), time.monotonic() - started
    assert pair_at.post("/slow_down", {"forward_sleep_time": None})[0] == 200
    assert ends == ["length"]
    assert seconds > 2.5
