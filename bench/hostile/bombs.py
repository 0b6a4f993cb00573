"""Requests made by hand: what takes for ever, what is enormous, what only a client would not send.

Each says which names a refusal may use, and whether it must be refused.
"""

from collections.abc import Iterator
from typing import Any

from bench.hostile.bodies import BODIES
from bench.hostile.bomb import Bomb, generate_body
from bench.hostile.bombs_http import make_bodies, make_places
from bench.hostile.bombs_lengths import make_lengths
from bench.hostile.bombs_patterns import make_patterns
from bench.hostile.cases import Expect, Raw, put
from bench.hostile.ranges import MANY_CHOICES, OUTPUT, Bounds

_REFUSE, _EITHER = Expect.REFUSE, Expect.EITHER


def make_bombs(bounds: Bounds) -> list[Bomb]:
    """All of them, in an order that does not change."""
    return [
        *make_patterns(),
        *_counts(bounds),
        *_token_ids(bounds),
        *_parameters(bounds),
        *_internals(),
        *_batches(),
        *make_bodies(),
        *make_places(),
        *make_lengths(bounds),
    ]


def _counts(bounds: Bounds) -> Iterator[Bomb]:
    vocabulary = bounds.vocabulary
    yield Bomb("/generate", "n of 50,000", generate_body(n=MANY_CHOICES), ("n",), _REFUSE)
    yield Bomb(
        "/v1/chat/completions", "n of 50,000",
        {**BODIES["/v1/chat/completions"][0], "n": MANY_CHOICES}, ("n",), _REFUSE,
    )  # fmt: skip
    for number in (1_000_000, -5, vocabulary + 1, 2**64):
        body = {**generate_body(), "return_logprob": True, "top_logprobs_num": number}
        yield Bomb("/generate", f"top_logprobs_num {number}", body, ("top_logprobs_num",), _REFUSE)
    for number in (-2, 100, 10**6, 2**64):
        body = {**generate_body(), "return_logprob": True, "logprob_start_len": number}
        yield Bomb(
            "/generate", f"logprob_start_len {number}", body, ("logprob_start_len",), _REFUSE
        )


def _token_ids(bounds: Bounds) -> Iterator[Bomb]:
    vocabulary = bounds.vocabulary
    for ids in ([vocabulary], [-1], [2**40], [2**64], [[vocabulary]], ["x"], [5] * 10_000):
        body = {**generate_body(), "return_logprob": True, "token_ids_logprob": ids}
        yield Bomb(
            "/generate", f"token_ids_logprob {str(ids)[:40]}", body, ("token_ids_logprob",),
            _EITHER if ids[0] == 5 else _REFUSE,
        )  # fmt: skip
    for bias in ({"5": 1e308}, {"5": -1e308}, {"5": Raw("NaN")}, {"5": Raw("Infinity")}, {"x": 1},
                 {"-1": 1}, {str(vocabulary): 1}, {str(2**64): 1}, {"": 1}, {"5": None}, {"5": "x"},
                 {str(n): 1 for n in range(10_000)}):  # fmt: skip
        either = len(bias) > 1 or bias.get("5") in (1e308, -1e308)
        for route, plain in (
            ("/generate", generate_body(logit_bias=bias)),
            ("/v1/completions", {**BODIES["/v1/completions"][0], "logit_bias": bias}),
        ):
            yield Bomb(
                route, f"logit_bias {str(bias)[:60]}", plain, ("logit_bias",),
                _EITHER if either else _REFUSE,
            )  # fmt: skip
    for ids in ([vocabulary], [-1], [2**31], [2**64], list(range(0, 40_000, 3))):
        yield Bomb(
            "/generate", f"stop_token_ids {str(ids)[:40]} with min_new_tokens",
            generate_body(stop_token_ids=ids, min_new_tokens=4), ("stop_token_ids",),
            _EITHER if len(ids) > 1 else _REFUSE,
        )  # fmt: skip


def _parameters(bounds: Bounds) -> Iterator[Bomb]:
    vocabulary = bounds.vocabulary
    for stops in (["a"] * 33, [""], ["x" * 100_000], [1], [None], [["a"]], "\ud800"):
        yield Bomb("/generate", f"stop {str(stops)[:40]}", generate_body(stop=stops), ("stop",))
    for params in ({"custom_params": {"__sglang_reasoning_end_token_ids": [vocabulary]}},
                   {"custom_params": {"a": {"b": {"c": [{}]}}}}, {"custom_params": 5},
                   {"watermark": {"key": "x"}}, {"beam_width": 2}, {"beam_width": -1},
                   {"stop_strs": ["a"]}, {"is_normalized": True}, {"stop_str_max_len": 2**40},
                   {"no_such_parameter": 1}, {"max_new_tokens": 0},
                   # Ends with its grammar, not with the pool.
                   {"max_new_tokens": None, "regex": "a{2}"},
                   {"min_new_tokens": OUTPUT + 1}, {"temperature": 1e-300}, {"temperature": 1e308},
                   {"temperature": 1e38, "top_p": 1e-300}, {"stream_interval": 0},
                   {"temperature": 1, "logit_bias": {"5": 1e308, "6": 1e308}},
                   {"temperature": 1, "logit_bias": {"5": -1e308}},
                   {"temperature": 1, "repetition_penalty": 1e-300},
                   {"temperature": 1e-5, "top_p": 1e-300, "min_p": 1}, {"temperature": 1e-40},
                   {"temperature": 1, "sampling_seed": 2**63 - 1}, {"stream_interval": -1},
                   ):  # fmt: skip
        must_fail = {"is_normalized", "no_such_parameter", "beam_width", "stop_strs"} & set(params)
        yield Bomb(
            "/generate", f"sampling_params {params}", generate_body(**params),
            tuple(params), _REFUSE if must_fail else _EITHER,
        )  # fmt: skip
    body = {**BODIES["/generate"][0], "stream": True}
    yield Bomb(
        "/generate", "stream_interval 0 in a stream",
        put(body, ("sampling_params", "stream_interval"), 0), ("stream_interval",), _REFUSE,
    )  # fmt: skip


def _internals() -> Iterator[Bomb]:
    """Fields that the processes of a server, or a trusted router, say to each other."""
    plain = generate_body()
    fields: dict[str, tuple[Any, ...]] = {
        "http_worker_ipc": ("ipc:///tmp/nowhere", "tcp://127.0.0.1:9", "x"),
        "bootstrap_host": ("127.0.0.1", "\x00"),
        "bootstrap_port": (9, -1, 2**40),
        "bootstrap_room": (0, -1, 2**64),
        "bootstrap_pair_key": ("x",),
        "decode_tp_size": (2, -1),
        "need_wait_for_mm_inputs": (True,),
        "encoder_urls": (["http://127.0.0.1:9"],),
        "num_items_assigned": ({"image": [1]}, {"IMAGE": [-1]}, {"audio": []}),
        "token_indices_to_pool": ([0], [-1], [10**6], [[0]]),
        "multi_item_delimiter_indices": ([0], [-1], [10**6], [[0]]),
        "return_routed_experts": (True,),
        "return_indexer_topk": (True,),
        "return_hidden_states": (True, "last"),
        "return_sampling_mask": (True,),
        "custom_logit_processor": ("x", "{}", '{"callable": "80049500"}'),
        "lora_path": ("x", "/nowhere", ""),
        "lora_id": ("x",),
        "session_params": ({"id": "nobody"}, {}, {"id": 5}, {"offset": -1}, {"nope": 1}),
        "session_id": ("x", ""),
        "image_data": ("http://127.0.0.1:9/x.png", "/dev/zero", "x", [[["x"]]], {}),
        "video_data": ("file:///dev/zero",),
        "audio_data": ("data:audio/wav;base64,AAAA",),
        "input_embeds": ([[0.1, 0.2]], [[]], [], [[[0.1]]]),
        "positional_embed_overrides": ({}, "x"),
        "kv_hints": ({}, {"actions": [{}]}, "x"),
        "priority": (2**31, 2**63, 2**64, -(2**64)),
        "disagg_prefill_dp_rank": (7, -1),
        "received_time": (-1e308, 0.0),
        "custom_labels": ({"a" * 1000: "b"}, {"le": "x"}),
        "external_trace_header": ({"traceparent": "x"},),
        "extra_key": ("x" * 100_000,),
        "cache_salt": ("x" * 100_000,),
        "rid": ("x" * 200_000, "\x00", "", ["a", "b"], "a/b", "\ud800"),
        "background": (True,),
        "mm_hashes": (["x"], [["zz"]]),
        "modalities": (["nope"],),
        "no_such_field": (1,),
    }
    for name, values in fields.items():
        for value in values:
            yield Bomb("/generate", f"{name} = {str(value)[:60]}", {**plain, name: value}, (name,))
    scored = generate_body(max_new_tokens=0)
    for name in ("token_indices_to_pool", "multi_item_delimiter_indices"):
        for value in ([0], [10**6], [-1], []):
            body = {**scored, "return_logprob": True, name: value}
            yield Bomb("/generate", f"{name} = {value} without output", body, (name,))


def _batches() -> Iterator[Bomb]:
    plain = generate_body(max_new_tokens=2)
    del plain["text"]
    batches: dict[str, Any] = {
        "200 prompts": ["a b c"] * 200, "no prompt": [], "an empty prompt": [""],
        "a prompt and none": ["a", None], "prompts of prompts": [["a"]],
    }  # fmt: skip
    for name, prompts in batches.items():
        names = ("text", "prompt", "input_ids")
        yield Bomb("/generate", f"text: {name}", {**plain, "text": prompts}, names)
    for ids in ([], [[]], [[5], []], [[5], 5], [5, [5]], [[5]] * 100, [[5, 2**40]], None):
        body = {**plain, "input_ids": ids}
        names = ("input_ids", "text", "prompt")
        yield Bomb("/generate", f"input_ids {str(ids)[:40]}", body, names)
    yield Bomb("/generate", "no prompt at all", plain, ("text", "input_ids"), _REFUSE)
    both = {**plain, "text": "a", "input_ids": [5]}
    yield Bomb("/generate", "two prompts", both, ("text", "input_ids"))
    for rids in (["a", "a"], ["a"], ["a", 5], "a", ["", ""]):
        body = {**plain, "text": ["a", "b"], "rid": rids}
        yield Bomb("/generate", f"two prompts with rid {rids}", body, ("rid", "request id"))
    for params in ([], [{}], [{}, {}], [{"n": 2}, {"n": 3}], [{}, None], [[], []]):
        body = {**plain, "text": ["a", "b"], "sampling_params": params}
        if {} in params:
            body["sampling_params"] = [p and {**p} or {"max_new_tokens": 2} for p in params]
        names = ("sampling_params", "parallel_sample_num", "n")
        yield Bomb("/generate", f"two prompts with sampling_params {params}", body, names)
    for name in (
        "return_logprob",
        "top_logprobs_num",
        "logprob_start_len",
        "lora_path",
        "extra_key",
    ):
        body = {**plain, "text": ["a", "b"], name: []}
        yield Bomb("/generate", f"two prompts with {name} []", body, (name,))
