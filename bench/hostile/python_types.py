"""Fields that OpenAPI leaves open, from SGLang's own types."""

import typing

from bench.hostile.schema import Field, fields_of_hints

_IDS = frozenset({"array", "null"})
# Ollama's options are a plain object to SGLang; these are the ones that it reads.
_OLLAMA = {
    "num_predict": int, "temperature": float, "top_p": float, "top_k": int, "seed": int,
    "stop": str | list[str], "presence_penalty": float, "frequency_penalty": float,
    "repeat_penalty": float, "num_ctx": int,
}  # fmt: skip
_TRANSFORM = {"ranks": list[int], "degree": int}
_STATE = {
    "no_such_knob": int,
    "pp_max_micro_batch_size": int,
    "speculative_accept_threshold_single": float,
}


def vague_fields() -> dict[str, tuple[Field, ...]]:
    """Route -> fields. Imports SGLang, which takes some seconds."""
    from sglang.srt.sampling.sampling_params import SamplingParams

    hints = typing.get_type_hints(SamplingParams)
    sampling = fields_of_hints(hints, ("sampling_params",))
    ids = Field(("input_ids",), _IDS, frozenset({"integer", "array"}))
    options = fields_of_hints(_OLLAMA, ("options",))
    return {
        "/generate": (ids, *sampling),
        "/api/chat": options,
        "/api/generate": options,
        "/amoeba/transform": fields_of_hints(_TRANSFORM),
        "/set_internal_state": fields_of_hints(_STATE, ("server_args",)),
    }
