"""An emulated server of a 32B model: short and long requests, and nobody asks for a layout."""

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serving.servers import Server

DEVICE, DILATION = "h100-80-32b-tp-loss", 3


@pytest.fixture(scope="module")
def server():
    with Server(
        "--tp-size", "4", "--amoeba-emulate", DEVICE, "--amoeba-emulate-dilation", str(DILATION),
        "--enable-mixed-chunk", "--chunked-prefill-size", "2048",
        module="tests.serving.audited",
    ) as running:  # fmt: skip
        yield running


def degrees(state):
    return [instance["degree"] for instance in state["instances"]]


def wait_for(server, reached, seconds=60.0):
    end = time.monotonic() + seconds
    while not reached(state := server.state()):
        assert time.monotonic() < end, state
        time.sleep(0.1)
    return state


def tokens(count, seed):
    return random.Random(seed).choices(range(100, 5000), k=count)


def test_the_server_says_that_it_is_emulated_and_how_large_it_is(server):
    assert "EMULATED Qwen2.5-32B on H100" in server.log.read_text()
    state = server.state()
    assert state["EMULATED"]["device_file"] == DEVICE
    assert state["EMULATED"]["dilation"] == DILATION
    assert [instance["max_tokens"] for instance in state["instances"]] == [24575] * 4
    assert "EMULATED" in server.get("/v1/models")["data"][0]["id"]


def test_a_decode_step_takes_what_the_device_model_says(server):
    first, last = server.generate("Hello", 1), server.generate("Hello", 41)
    seconds = last["meta_info"]["e2e_latency"] - first["meta_info"]["e2e_latency"]
    # 65.5 GB of weights at 2.68 TB/s and 3 ms beside.
    assert seconds / 40 / DILATION == pytest.approx(0.0275, rel=0.2)
    assert last["text"].startswith(first["text"])


def test_long_requests_get_their_merges_and_splits_while_short_ones_go_on(server):
    short = [tokens(300, seed) for seed in range(24)]
    long = [tokens(26_000, 100), tokens(28_000, 101)]
    with ThreadPoolExecutor(len(short) + len(long)) as pool:
        shorts = [pool.submit(server.generate, prompt, 30) for prompt in short]
        longs = [pool.submit(server.generate, prompt, 10) for prompt in long]
        state = wait_for(server, lambda state: max(degrees(state)) > 1 or state["waiting"]["count"])
        for waiting in state["waiting"]["oldest"]:
            assert waiting["reason"] and waiting["degree"] == 2
        replies = [task.result() for task in (*shorts, *longs)]
    lengths = [reply["meta_info"]["prompt_tokens"] for reply in replies]
    assert lengths == [len(prompt) for prompt in (*short, *long)]
    assert [len(reply["output_ids"]) for reply in replies] == [30] * len(short) + [10] * len(long)
    state = wait_for(server, lambda state: degrees(state) == [1] * 4 and not state["operation"])
    done = [one for one in state["history"] if one["outcome"] == "done"]
    assert {one["kind"] for one in done} == {"merge", "split"}
    assert "tokens" in done[0]["reason"] and "no long request" in done[-1]["reason"]
    # Emulated seconds.
    assert all(0.05 < one["seconds"] < 5 for one in done)
    made = [one["decision"] for one in state["decisions"]]
    assert any("to degree 2" in one for one in made) and any("to rank" in one for one in made)


def test_what_steps_cost_is_learned_from_the_requests(server):
    table = server.state()["throughput"]
    assert "steps of degree 1" in table["source"] and "steps of degree 2" in table["source"]
    # Nobody needed degree 4.
    assert not table["complete"] and 0 < table["transformation_s"] < 5
    alone = table["degrees"]["1"]["cost"]
    assert alone["fixed"] + alone["row"] == pytest.approx(0.0275, rel=0.25)


def test_an_operator_s_layout_stays_until_he_releases_it(server):
    assert server.transform([0, 1], 2)[0] == 200
    assert server.state()["pinned"] == [0, 1]
    time.sleep(3.0 * DILATION)
    state = server.state()
    assert degrees(state) == [2, 1, 1]
    assert server.transform([0, 1], state["base_degree"])[0] == 200
    assert server.state()["pinned"] == []


def test_what_only_a_model_knows_is_refused(server):
    status, reply = server.post("/generate", {"text": "Hello", "return_logprob": True})
    assert status == 400 and "EMULATED" in reply["error"]["message"]
