"""A server on the REFERENCE device: a GPU's memory, mover and attention calls through changes of
the layout. It says nothing of a GPU's arithmetic or speed."""

import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.gpu_check.one_gpu import compare
from bench.reference.servers import POOL, start
from bench.reference.servers import change as change_ranks
from tests.e2e.conftest import wait_for_tokens
from tests.serving.load import chat_prompts

PROMPTS = chat_prompts(6)


@pytest.fixture(scope="module")
def order(tmp_path_factory):
    """What is written to this file is done at a mapping of `server`; see faulty_worker.py."""
    return tmp_path_factory.mktemp("faults") / "order"


@pytest.fixture(scope="module")
def server(shallow_model, order):
    """By trtllm_mha, in pages of 16 tokens."""
    with start(
        "sm90", "bfloat16", shallow_model, flags=("--attention-backend", "trtllm_mha"),
        module="tests.e2e.faulty_server", env={"TEST_FAULT_FILE": str(order)},
    ) as running:  # fmt: skip
        yield running


# FlashInfer's is that of test_gpu_bench.
BY_TOKEN = {"by Triton": ("sm80", "float32"), "by FlashAttention 3": ("sm90", "bfloat16")}


@pytest.fixture(params=BY_TOKEN)
def token_server(request, shallow_model):
    """In pages of one token, of which the interpreter moves a few hundred a second."""
    kind, dtype = BY_TOKEN[request.param]
    flags = ("--page-size", "1", "--enable-mixed-chunk")
    with start(kind, dtype, shallow_model, flags=flags) as running:
        running.dtype = dtype
        yield running


def change(server, degree):
    return change_ranks(server, [0, 1], degree)


def likelihood(server, ids):
    """Mean log-probability of each of these tokens after those before it."""
    found = server.score(ids)
    assert len(found) == len(ids) - 1
    return math.fsum(found) / len(found)


def answers(server):
    """Greedy ones, each alone and without a cached prefix."""
    assert server.post("/flush_cache", {})[0] == 200
    return [server.generate(prompt, 24)["output_ids"] for prompt in PROMPTS[:4]]


def test_it_says_what_it_is(server):
    assert "REFERENCE device sm90" in server.log.read_text()
    assert server.state()["plane"] == "reference"


def test_streams_go_through_changes_and_nothing_is_different_afterwards(server):
    ids = server.generate(PROMPTS[0], 120, return_logprob=True)["output_ids"]
    before = answers(server)
    alone = likelihood(server, ids)
    merged = []
    with ThreadPoolExecutor(6) as pool:
        streams = [pool.submit(server.generate, prompt, 160) for prompt in PROMPTS]
        moved = [change(server, degree)["bytes_moved"] for degree in (2, 1) * 4]
        change(server, 2)
        merged.append(likelihood(server, ids))
        replies = [stream.result() for stream in streams]
    assert all(len(reply["output_ids"]) == 160 for reply in replies)
    assert all(one["kv"] > 0 for one in moved), moved
    assert all(one["weights"] > 0 for one in moved[1::2]), moved
    change(server, 1)
    # Weights and KV came home bit for bit; sums of halves are rounded otherwise.
    assert answers(server) == before
    assert likelihood(server, ids) == alone
    assert merged == [pytest.approx(alone, abs=0.05)]


@pytest.mark.parametrize("mapping", [1, 9])
def test_a_mapping_that_the_driver_refuses_undoes_the_change(server, order, mapping):
    """After COMMIT, in a merge at the KV and in a split at the weights, beside a stream."""
    before = answers(server)
    for degree in (2, 1):
        with ThreadPoolExecutor(1) as pool:
            stream = pool.submit(server.generate, PROMPTS[5], 60)
            wait_for_tokens(server, stream)
            order.write_text(f"fail {mapping}")
            status, reply = server.transform([0, 1], degree)
            assert not order.exists(), "no mapping was so late"
            assert (status, reply["outcome"]) == (500, "undone"), reply
            assert "rank 1: a mapping was made to fail" in reply["error"]
            assert len(stream.result()["output_ids"]) == 60
        assert len(server.state()["instances"]) == degree
        change(server, degree)
    assert answers(server) == before


def test_a_long_request_has_the_memory_that_a_merge_frees(server):
    prompt = list(range(1000, 1000 + 2 * POOL + 100))
    status, reply = server.post("/generate", {"input_ids": prompt})
    assert status == 400 and "tokens" in str(reply)
    change(server, 2)
    try:
        assert len(server.generate(prompt, 8)["output_ids"]) == 8
    finally:
        change(server, 1)


def test_streams_in_pages_of_a_token_go_through_changes(pair, token_server):
    """In float32 tokens are those of the CPU plane; else as many, and the same again afterwards."""
    prompts, first = PROMPTS[:3], 8
    exact = token_server.dtype == "float32"
    sure = [(pair if exact else token_server).generate(p, first)["output_ids"] for p in prompts]
    with ThreadPoolExecutor(len(prompts)) as pool:
        streams = [pool.submit(token_server.generate, prompt, 40) for prompt in prompts]
        change(token_server, 2)
        change(token_server, 1)
        found = [stream.result()["output_ids"] for stream in streams]
    assert all(len(ids) == 40 for ids in found)
    if exact:
        assert found == [pair.generate(prompt, 40)["output_ids"] for prompt in prompts]
    assert token_server.post("/flush_cache", {})[0] == 200
    assert [token_server.generate(p, first)["output_ids"] for p in prompts] == sure


def replays(server):
    return server.state()["device"].get("replays", 0)


def test_the_check_for_owners_of_gpus_passes_and_withholds_times(server):
    found = compare(server)
    assert found["plane"] == "reference" and found["workers"] == 2
    assert [change["degree"] for change in found["changes"]] == [2, 1, 2, 1]
    assert all(change["bytes_moved"]["kv"] for change in found["changes"])
    assert found["tokens_a_second"] == {2: "withheld", 1: "withheld"}
    assert not any("seconds" in change for change in found["changes"])


def test_decode_steps_of_an_instance_are_replayed_and_say_what_prompts_say(server):
    """The log-probability of each token when it was decoded is that of the same token in a
    prompt, which no graph runs."""
    change(server, 2)
    try:
        before = replays(server)
        with ThreadPoolExecutor(3) as pool:
            decoded = list(
                pool.map(lambda p: server.generate(p, 60, return_logprob=True), PROMPTS[:3])
            )
        for reply, prompt in zip(decoded, PROMPTS[:3], strict=True):
            found = [value for value, *_ in reply["meta_info"]["output_token_logprobs"]]
            body = {"text": prompt, "return_logprob": True, "logprob_start_len": 0}
            taught = server.post("/generate", body | {"sampling_params": {"max_new_tokens": 1}})[1]
            count = len(taught["meta_info"]["input_token_logprobs"])
            ids = [token for _, token, *_ in taught["meta_info"]["input_token_logprobs"]]
            expected = server.generate(
                ids + reply["output_ids"], 1, return_logprob=True, logprob_start_len=0
            )["meta_info"]["input_token_logprobs"][count:]
            # In bfloat16 a sum of other rows beside it is rounded otherwise; over other slots it
            # would be nats away.
            far = [abs(one - value) for one, (value, *_) in zip(found, expected, strict=True)]
            assert math.fsum(far) / len(far) < 0.05, far
        # Each of them decodes 7 steps at least.
        for _ in range(60):
            if replays(server) >= before + 60:
                break
            server.generate(PROMPTS[0], 8)
        assert replays(server) >= before + 60
        assert server.state()["device"]["plain steps without a graph"] == 0
    finally:
        change(server, 1)
