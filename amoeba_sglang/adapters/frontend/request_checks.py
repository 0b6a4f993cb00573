"""What a generate request may say beside its sampling parameters: served fields and their ranges.

Fields that are not served must be left out, those that a later SGLang adds among them: one that
nobody has looked at may end a worker, and with it all requests.
"""

import dataclasses
from typing import Any

from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX
from sglang.srt.managers.io_struct import GenerateReqInput

from amoeba_sglang.adapters.frontend.sampling_checks import require_sampling_params
from amoeba_sglang.errors import InvalidRequest
from amoeba_sglang.frontend.values import (
    refuse,
    require_ids,
    require_name,
    require_prompt_ids,
    require_range,
    require_text,
)

# Prompts times samples of one HTTP request: each is tokenized, sent and waited for by itself, and
# the front end answers nobody else meanwhile.
MOST_SEQUENCES = 4096
# Log-probabilities of one request, which a worker makes Python lists of.
MOST_LOGPROBS = 1 << 23
_MOST_RID, _MOST_KEY = 512, 1024
_PRIORITY = 2**31 - 1

# Served without a range of their own: flags, and what only travels through the front end.
_FREE = {
    "background", "custom_labels", "external_trace_header", "log_metrics", "max_thinking_tokens",
    "no_logs", "received_time", "require_reasoning", "return_bytes", "return_entropy",
    "return_flat_raw_output_top_logprobs", "return_flat_raw_top_logprobs",
    "return_flat_raw_top_logprobs_b64", "return_logprob", "return_prompt_token_ids",
    "return_sampling_mask", "return_text_in_logprobs", "sampling_logprobs_mode", "stream",
    # SGLang serves them if a flag of the server says so, and otherwise refuses them itself.
    "custom_logit_processor", "lora_id", "lora_path", "return_hidden_states",
    # Checked by others: below, and where the ranks are known.
    "data_parallel_rank", "input_ids", "logprob_start_len", "rid", "routed_dp_rank",
    "sampling_params", "text", "token_ids_logprob", "top_logprobs_num", "watermark",
}  # fmt: skip
# A batch may have one for each of its prompts. SGLang takes the list apart without counting it.
_PER_PROMPT = (
    "cache_salt", "custom_logit_processor", "extra_key", "logprob_start_len", "lora_path",
    "return_hidden_states", "return_logprob", "return_sampling_mask", "rid",
    "sampling_logprobs_mode", "sampling_params", "top_logprobs_num",
)  # fmt: skip
# Routes pass these empty where a prompt has none.
_EMPTY_MEDIA = ("audio_data", "image_data", "modalities", "video_data")
_NAMES = ("cache_salt", "conversation_id", "extra_key", "routing_key", "session_id")
_UNSERVED = [
    field
    for field in dataclasses.fields(GenerateReqInput)
    if field.name not in _FREE and field.name not in _NAMES and field.name != "priority"
]


NO_SESSIONS = (
    "Amoeba does not support sessions, since their turns may go to different workers; send the "
    "whole prompt in each turn"
)
_ONLY_TOKENS = "Amoeba serves only prompts of text or token ids"
# What to do instead, where leaving the field out is not the answer.
_REASONS = {
    "input_embeds": _ONLY_TOKENS,
    "positional_embed_overrides": _ONLY_TOKENS,
    "session_params": NO_SESSIONS,
}


@dataclasses.dataclass(frozen=True)
class RequestBounds:
    """vocabulary: token ids of the model; max_n: `--amoeba-max-n`, samples of a prompt."""

    vocabulary: int
    max_n: int


def require_shape(obj: GenerateReqInput, bounds: RequestBounds, is_health_check: bool) -> None:
    """Raise InvalidRequest for what must not even be taken apart into single requests.

    `obj`: as it came, a prompt or a batch of them.
    """
    _require_rids(obj.rid, is_health_check)
    for field in ("text", "input_ids"):
        prompts = getattr(obj, field)
        if prompts is not None and not len(prompts) and not isinstance(prompts, str):
            raise refuse(field, prompts, "a prompt or at least one of a batch is needed")
    nested = [isinstance(ids, list) for ids in obj.input_ids or ()]
    if obj.input_ids is not None and (isinstance(obj.text, list) or (obj.text and any(nested))):
        # SGLang would take the one for as long as the other.
        reason = "a batch is given as text or as input_ids, not as both"
        raise refuse("input_ids", obj.input_ids, reason)
    samples = _require_samples(obj, bounds.max_n)
    prompts = obj.text if obj.text is not None else obj.input_ids
    is_batch = isinstance(prompts, list) and not isinstance(prompts[0], int)
    count = samples * (len(prompts) if is_batch else 1)
    if count > MOST_SEQUENCES:
        raise InvalidRequest(
            f"{'text' if obj.text is not None else 'input_ids'}: {count} sequences (prompts times "
            f"n) in one request, at most {MOST_SEQUENCES} are taken; send several requests"
        )
    wanted = len(prompts) if is_batch else 1
    for field in _PER_PROMPT:
        given = getattr(obj, field)
        if isinstance(given, list) and not (len(given) == wanted and (is_batch or samples > 1)):
            reason = f"a list of {len(given)} is not one for each of {wanted} prompts of a batch"
            raise refuse(field, given, reason)
    _require_listed_ids(obj.token_ids_logprob, wanted)


def require_request(obj: GenerateReqInput, input_ids: list[int], bounds: RequestBounds) -> None:
    """Raise InvalidRequest, naming the field, unless a worker can serve this single request.

    `input_ids`: of its prompt, tokenized.
    """
    for field in _UNSERVED:
        if _is_set(getattr(obj, field.name), field):
            value = getattr(obj, field.name)
            reason = _REASONS.get(field.name, "Amoeba does not serve this field; leave it out")
            raise refuse(field.name, value, reason)
    for name in _NAMES:
        value = getattr(obj, name)
        if value is not None and value != "":
            if not isinstance(value, str):
                raise refuse(name, value, "must be a string")
            require_name(name, value, _MOST_KEY)
    if obj.priority is not None:
        require_range("priority", obj.priority, -_PRIORITY, _PRIORITY)
    if obj.text is not None:
        require_text("text", obj.text)
    if not input_ids:
        field, value = ("input_ids", []) if obj.text is None else ("text", obj.text)
        raise refuse(field, value, "the prompt has no tokens, at least one is needed")
    require_prompt_ids("input_ids", input_ids, bounds.vocabulary)
    require_sampling_params(obj.sampling_params, bounds.vocabulary)
    _require_logprobs(obj, len(input_ids), bounds.vocabulary)


def _require_samples(obj: GenerateReqInput, max_n: int) -> int:
    """How many samples of each prompt are wanted."""
    params = obj.sampling_params
    samples = 1
    for one in params if isinstance(params, list) else [params or {}]:
        if not isinstance(one, dict):
            raise refuse("sampling_params", one, "must be an object")
        samples = one.get("n")
        if samples is None:
            one.pop("n", None)
            samples = 1
        elif type(samples) is not int or not 1 <= samples <= max_n:
            raise refuse("n", samples, f"must be an integer from 1 to {max_n} (--amoeba-max-n)")
        # SGLang compares it with 1 before it looks at its type.
        if one.get("beam_width") not in (None, 1):
            raise refuse("beam_width", one["beam_width"], "Amoeba does not support beam search")
    return samples


def _require_rids(rid: str | list[str] | None, is_health_check: bool) -> None:
    for one in rid if isinstance(rid, list) else [rid]:
        if one is None:
            continue
        if not isinstance(one, str):
            raise refuse("rid", one, "must be a string")
        require_name("rid (request_id)", one, _MOST_RID)
        if one.startswith(HEALTH_CHECK_RID_PREFIX) and not is_health_check:
            # A busy worker drops those without an answer.
            raise refuse("rid", one, f"ids of that start ({HEALTH_CHECK_RID_PREFIX}) are SGLang's")


def _require_listed_ids(ids: Any, prompts: int) -> None:
    """`token_ids_logprob` is one list for all prompts, or a list of lists, one for each."""
    lists = [one for one in ids if isinstance(one, list)] if isinstance(ids, list) else []
    if lists and not len(lists) == len(ids) == prompts:
        raise refuse("token_ids_logprob", ids, f"not one list for each of {prompts} prompts")


def _require_logprobs(obj: GenerateReqInput, prompt: int, vocabulary: int) -> None:
    count, start = obj.top_logprobs_num, obj.logprob_start_len
    require_range("top_logprobs_num (logprobs, top_logprobs)", count, 0, vocabulary)
    require_range("logprob_start_len", start, -1, prompt)
    ids: Any = obj.token_ids_logprob or ()
    require_ids("token_ids_logprob", ids, vocabulary)
    if len(ids) > vocabulary:
        raise refuse("token_ids_logprob", len(ids), f"at most {vocabulary} ids are taken")
    if not obj.return_logprob:
        return
    scored = 0 if start < 0 else prompt - start
    tokens = scored + (obj.sampling_params.get("max_new_tokens") or 1)
    if tokens * (count + len(ids)) > MOST_LOGPROBS:
        raise InvalidRequest(
            f"top_logprobs_num (logprobs, top_logprobs) {count}, token_ids_logprob of {len(ids)}: "
            f"{tokens} tokens with so many log-probabilities each are more than {MOST_LOGPROBS}"
        )


def _is_set(value: Any, field: dataclasses.Field[Any]) -> bool:
    """Whether a client has given a field that is not served."""
    return value != field.default and not (field.name in _EMPTY_MEDIA and not value)
