import dataclasses

import pytest
from sglang.srt.managers.io_struct import GenerateReqInput

from amoeba_sglang.adapters.frontend.request_checks import (
    MOST_SEQUENCES,
    RequestBounds,
    require_request,
    require_shape,
)
from amoeba_sglang.errors import InvalidRequest

BOUNDS = RequestBounds(vocabulary=1000, max_n=128)


def check(**fields):
    """Both checks, as a request passes them."""
    request = GenerateReqInput(**{"input_ids": [1, 2], "sampling_params": {}, **fields})
    require_shape(request, BOUNDS, is_health_check=False)
    request.normalize_batch_and_arguments()
    require_request(request, request.input_ids, BOUNDS)


def test_ordinary_requests_are_taken():
    check()
    check(
        rid="job-1", stream=True, return_logprob=True, top_logprobs_num=1000, logprob_start_len=0,
        token_ids_logprob=[0, 999], priority=-5, extra_key="tenant", cache_salt="", session_id="s",
        return_text_in_logprobs=True, custom_labels={"a": "b"}, image_data=[], modalities=[],
    )  # fmt: skip
    check(sampling_params={"n": None, "beam_width": None})
    check(sampling_params={"beam_width": 1})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_ids", [1, 2, 2**40]),
        ("input_ids", [1, 1000]),
        ("input_ids", [-1, 1]),
        ("input_ids", []),
        ("top_logprobs_num", 1_000_000),
        ("top_logprobs_num", -1),
        ("logprob_start_len", -2),
        ("logprob_start_len", 3),
        ("top_logprobs_num", [1]),
        ("logprob_start_len", [1, 1]),
        ("return_logprob", []),
        ("token_ids_logprob", [[1], [2]]),
        ("token_ids_logprob", [1, [2]]),
        ("token_ids_logprob", [1000]),
        ("token_ids_logprob", [-1]),
        ("token_ids_logprob", [True]),
        ("priority", 2**70),
        ("rid", ""),
        ("rid", "x" * 1000),
        ("rid", "a\x00b"),
        ("rid", "\ud800"),
        ("rid", "HEALTH_CHECK_1"),
        ("extra_key", "\ud800"),
        ("extra_key", ["a"]),
        ("session_id", "x" * 5000),
        ("sampling_params", [{}, {}]),
        ("sampling_params", ["x"]),
        ("http_worker_ipc", "ipc:///tmp/somebody"),
        ("image_data", "http://127.0.0.1/"),
        ("need_wait_for_mm_inputs", True),
        ("token_indices_to_pool", [5]),
        ("token_indices_to_pool", []),
        ("multi_item_delimiter_indices", [1]),
        ("return_routed_experts", True),
        ("bootstrap_room", 5),
        ("session_params", {"id": "x"}),
    ],
)
def test_what_could_end_a_worker_or_mislead_it_is_refused_by_name(field, value):
    with pytest.raises(InvalidRequest, match=field):
        check(**{field: value})


@pytest.mark.parametrize("n", [0, -1, 129, 50_000, 2**70, 1.5, "2", True])
def test_n_has_a_limit_that_is_looked_at_before_anything_is_made_of_it(n):
    request = GenerateReqInput(text="a", sampling_params={"n": n})
    with pytest.raises(InvalidRequest, match="n .*--amoeba-max-n"):
        require_shape(request, BOUNDS, is_health_check=False)


@pytest.mark.parametrize("width", [0, 2, -1, "2", [1], {}])
@pytest.mark.parametrize("batch", [False, True])
def test_beam_search_is_refused_before_a_width_is_computed_with(width, batch):
    params = {"beam_width": width}
    request = GenerateReqInput(
        text=["a", "b"] if batch else "a", sampling_params=[{}, params] if batch else params
    )
    with pytest.raises(InvalidRequest, match="^beam_width .*does not support beam search"):
        require_shape(request, BOUNDS, is_health_check=False)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("input_embeds", [[0.0]], "only prompts of text or token ids"),
        ("positional_embed_overrides", object(), "only prompts of text or token ids"),
        ("session_params", {"id": "s"}, "whole prompt in each turn"),
        ("bootstrap_room", 5, "leave it out"),
    ],
)
def test_a_refused_field_says_what_to_do_instead(field, value, reason):
    request = GenerateReqInput(text="a", sampling_params={})
    request.normalize_batch_and_arguments()
    setattr(request, field, value)
    with pytest.raises(InvalidRequest, match=f"^{field} .*{reason}"):
        require_request(request, [1], BOUNDS)


def test_prompts_times_samples_have_a_limit():
    fits = GenerateReqInput(text=["a"] * (MOST_SEQUENCES // 128), sampling_params={"n": 128})
    require_shape(fits, BOUNDS, is_health_check=False)
    with pytest.raises(InvalidRequest, match="text"):
        more = GenerateReqInput(text=[*fits.text, "a"], sampling_params={"n": 128})
        require_shape(more, BOUNDS, is_health_check=False)


def test_log_probabilities_have_a_limit_together():
    with pytest.raises(InvalidRequest, match="top_logprobs_num"):
        check(
            return_logprob=True, top_logprobs_num=1000, logprob_start_len=-1,
            sampling_params={"max_new_tokens": 10_000},
        )  # fmt: skip


def test_health_checks_have_ids_of_their_own():
    request = GenerateReqInput(rid="HEALTH_CHECK_1", input_ids=[0], sampling_params={})
    require_shape(request, BOUNDS, is_health_check=True)


def test_every_field_of_a_request_is_served_or_refused():
    """A field that a later SGLang adds is refused until somebody has looked at it."""

    @dataclasses.dataclass
    class Later(GenerateReqInput):
        surprise: int = 0

    from amoeba_sglang.adapters.frontend import request_checks

    known = {field.name for field in request_checks._UNSERVED} | request_checks._FREE
    known |= {*request_checks._NAMES, "priority"}
    fields = {field.name for field in dataclasses.fields(GenerateReqInput)}
    assert fields <= known
    assert not request_checks._FREE - fields


@pytest.mark.parametrize(
    "field", ["top_logprobs_num", "logprob_start_len", "return_logprob", "rid"]
)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_batch_has_one_of_a_list_for_each_prompt(field, count):
    value = ["a", "b", "c"] if field == "rid" else [1] * 3
    request = GenerateReqInput(text=["a", "b"], sampling_params={}, **{field: value[:count]})
    with pytest.raises(InvalidRequest, match=field):
        require_shape(request, BOUNDS, is_health_check=False)


def test_a_prompt_without_tokens_is_refused():
    request = GenerateReqInput(text="", sampling_params={})
    request.normalize_batch_and_arguments()
    with pytest.raises(InvalidRequest, match="text ''"):
        require_request(request, [], BOUNDS)


@pytest.mark.parametrize(
    ("text", "input_ids"), [(["x"] * 5, [1, 2]), (["x"] * 2, [[1], [2]]), ("x", [[1], [2]])]
)
def test_a_batch_is_given_in_one_way(text, input_ids):
    """As many token ids as texts were looked for: HTTP 500."""
    with pytest.raises(InvalidRequest, match="^input_ids .*not as both$"):
        require_shape(GenerateReqInput(text=text, input_ids=input_ids), BOUNDS, False)
