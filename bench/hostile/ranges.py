"""What is known of a field by its name: where its range ends, and what cannot change the output."""

from dataclasses import dataclass
from typing import Any

MANY_CHOICES = 50_000
TOO_MANY_LOGPROBS = 1_000_000
# Output tokens that the plain bodies ask for.
OUTPUT = 8


@dataclass(frozen=True)
class Bounds:
    """Of the server: token ids of its vocabulary, tokens of a prefill chunk, of the longest request
    of a worker alone and of all merged, of the context, and workers."""

    vocabulary: int
    chunk: int
    own: int
    most: int
    context: int
    workers: int

    def marks(self) -> dict[str, int]:
        """Lengths at which something changes."""
        return {
            "a chunk": self.chunk, "a pool": self.own, "an instance": self.most,
            "the context": self.context,
        }  # fmt: skip


@dataclass(frozen=True)
class Range:
    """Values that must be served, and such below and above that must be refused."""

    at: tuple[Any, ...]
    below: tuple[Any, ...] = ()
    above: tuple[Any, ...] = ()


def known_ranges(bounds: Bounds) -> dict[str, Range]:
    """Ranges by the name of the field, whichever API has it."""
    probability = Range((0.01, 0.5, 1, 1.0), (-1e-9, -1, -1e308), (1.0000001, 2, 1e308))
    penalty = Range((-2, 2, 0.0), (-2.001, -1e308), (2.001, 2**31, 1e308))
    too_many = (bounds.most, bounds.context, 2**31, 2**40, 2**63, 2**64)
    tokens = Range((1, OUTPUT), (-1, -(2**63)), too_many)
    ranks = Range((0, bounds.workers - 1), (-1,), (bounds.workers, 2**31, 2**64))
    choices = Range((1, 2, 4), (0, -1), (MANY_CHOICES, 2**31, 2**64))
    seeds = Range((0, -1, 2**31, 2**63 - 1, -(2**63)), (-(2**63) - 1,), (2**63, 2**64))
    least = Range((0, 1, OUTPUT), (-1, -(2**40)), (2**31, 2**64))
    return {
        "temperature": Range((0, 0.0), (-0.001, -1), ()),
        "top_p": Range(probability.at, (0, *probability.below), probability.above),
        "min_p": Range((0, *probability.at), probability.below, probability.above),
        "top_k": Range((-1, 1, bounds.vocabulary, 2**30), (0, -2, -(2**31)), ()),
        "frequency_penalty": penalty,
        "presence_penalty": penalty,
        "repetition_penalty": Range((0.01, 1, 2), (0, -1), (2.001, 1e308)),
        "min_new_tokens": least,
        "min_tokens": least,
        "max_new_tokens": tokens,
        "max_tokens": tokens,
        "max_completion_tokens": tokens,
        # SGLang cuts it to what the context leaves.
        "max_output_tokens": Range(tokens.at, tokens.below),
        "num_predict": Range(tokens.at, (), tokens.above),
        "n": choices,
        "logprob_start_len": Range((-1, 0, 1), (-2, -(2**31)), (10**6, 2**64)),
        "top_logprobs_num": Range((0, 1, 20), (-1, -(2**31)), (TOO_MANY_LOGPROBS, 2**40, 2**64)),
        "top_logprobs": Range((), (-1, -(2**31)), (TOO_MANY_LOGPROBS, 2**64)),
        "stream_interval": Range((1, 2, 2**31), (0, -1), (2**64,)),
        "sampling_seed": seeds,
        "seed": seeds,
        "routed_dp_rank": ranks,
        "data_parallel_rank": ranks,
        "routed_experts_start_len": Range((0,), (-1,), (2**40,)),
    }


# Fields whose elements are ids of the vocabulary.
ID_LISTS = frozenset({"input_ids", "stop_token_ids", "token_ids_logprob", "tokens"})
# Fields that make the prompt. They stay so short that every request fits.
PROMPTS = frozenset({
    "text", "prompt", "content", "input", "query", "items", "documents", "instruct", "state",
    "instructions", "system", "suffix", "template", "input_ids", "messages", "instances", "context",
    "role", "input_embeds", "embed_overrides", "tokens", "tools", "chat_template_kwargs",
})  # fmt: skip
# Fields that may change a greedy output. All others must not.
CHANGING = PROMPTS | frozenset({
    "temperature", "frequency_penalty", "presence_penalty", "repetition_penalty", "min_new_tokens",
    "min_tokens", "max_new_tokens", "max_tokens", "max_completion_tokens", "max_output_tokens",
    "num_predict", "stop", "stop_token_ids", "stop_regex", "stop_sequences", "json_schema", "regex",
    "ebnf", "structural_tag", "ignore_eos", "skip_special_tokens", "spaces_between_special_tokens",
    "no_stop_trim", "logit_bias", "custom_params", "watermark", "response_format", "tool_choice",
    "custom_logit_processor", "continue_final_message", "reasoning_effort", "reasoning", "thinking",
    "raw", "echo", "think", "task", "session_params", "session_id", "add_generation_prompt",
    "previous_response_id", "format", "options", "separate_reasoning", "stream_reasoning",
    "beam_width", "positional_embed_overrides", "add_special_tokens", "image_data", "video_data",
    "audio_data", "role", "name", "tool_calls", "tool_call_id", "reasoning_content", "type",
    "sampling_params", "parameters", "truncation", "lora_path", "images", "output_config",
    "return_token_ids", "include", "keep_alive", "top_logprobs", "logprobs", "repeat_penalty",
})  # fmt: skip

# How a refusal may call a field else: what SGLang's engine or another API calls the same.
SYNONYMS = {
    "max_tokens": ("max_new_tokens", "max_completion_tokens"),
    "max_completion_tokens": ("max_new_tokens", "max_tokens"),
    "max_output_tokens": ("max_new_tokens", "max_tokens"),
    "max_new_tokens": ("max_tokens",),
    "num_predict": ("max_new_tokens",),
    "min_tokens": ("min_new_tokens",),
    "seed": ("sampling_seed",),
    "data_parallel_rank": ("routed_dp_rank",),
    "repeat_penalty": ("repetition_penalty",),
    "top_logprobs": ("top_logprobs_num", "logprobs"),
    "logprobs": ("top_logprobs_num", "top_logprobs"),
    "stop_sequences": ("stop",),
    "response_format": ("json_schema", "structural_tag", "grammar"),
    "format": ("json_schema", "grammar"),
    "tool_choice": ("tools",),
    "regex": ("grammar",),
    "ebnf": ("grammar",),
    "json_schema": ("grammar",),
    "structural_tag": ("grammar",),
    "input_ids": ("prompt", "token id"),
    "text": ("prompt", "input_ids"),
    "prompt": ("input_ids", "text"),
    "instances": ("text", "input_ids"),
    "content": ("messages", "input_ids", "prompt"),
    "messages": ("content", "prompt"),
    "session_params": ("session",),
    "session_id": ("session",),
    "lora_path": ("lora",),
    "model": ("lora",),
}
