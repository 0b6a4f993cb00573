"""A small valid request for every route, and which routes are left alone."""

from typing import Any

from bench.hostile.ranges import OUTPUT

MODEL_NAME = "default"
_PROMPT = "Once upon a time there was a small bakery by the sea."
_MESSAGES = [{"role": "user", "content": "Tell me about the sea."}]
_SAMPLING = {"max_new_tokens": OUTPUT, "temperature": 0}
_CHAT = {"model": MODEL_NAME, "messages": _MESSAGES, "max_tokens": OUTPUT, "temperature": 0}
_DOCUMENT = {"query": "the sea", "documents": ["old maps", "a train in winter"]}
_QUESTION = {"id": "q", "type": "yes_no", "question": "Is the sea blue?"}

BODIES: dict[str, tuple[dict[str, Any], ...]] = {
    "/generate": (
        {"text": _PROMPT, "sampling_params": _SAMPLING},
        {"input_ids": [100, 200, 300, 400], "sampling_params": _SAMPLING},
    ),
    "/v1/completions": (
        {"model": MODEL_NAME, "prompt": _PROMPT, "max_tokens": OUTPUT, "temperature": 0},
    ),
    "/v1/chat/completions": (_CHAT,),
    "/invocations": (_CHAT,),
    "/v1/responses": (
        {"model": MODEL_NAME, "input": _PROMPT, "max_output_tokens": OUTPUT, "temperature": 0},
    ),
    "/v1/messages": (_CHAT,),
    "/v1/messages/count_tokens": ({"model": MODEL_NAME, "messages": _MESSAGES},),
    "/api/chat": (
        {
            "model": MODEL_NAME, "messages": _MESSAGES, "stream": False,
            "options": {"num_predict": OUTPUT, "temperature": 0},
        },
    ),
    "/api/generate": (
        {
            "model": MODEL_NAME, "prompt": _PROMPT, "stream": False,
            "options": {"num_predict": OUTPUT, "temperature": 0},
        },
    ),
    "/api/show": ({"model": MODEL_NAME},),
    "/vertex_generate": ({"instances": [{"text": _PROMPT}]},),
    "/v1/tokenize": ({"model": MODEL_NAME, "prompt": _PROMPT},),
    "/tokenize": ({"model": MODEL_NAME, "prompt": _PROMPT},),
    "/v1/detokenize": ({"model": MODEL_NAME, "tokens": [100, 200, 300]},),
    "/detokenize": ({"model": MODEL_NAME, "tokens": [100, 200, 300]},),
    "/v1/score": (
        {"query": _PROMPT, "items": [" The end.", " Why?"], "label_token_ids": [100, 200]},
    ),
    "/v1/embeddings": ({"model": MODEL_NAME, "input": _PROMPT},),
    "/v1/classify": ({"model": MODEL_NAME, "input": _PROMPT},),
    "/v1/rerank": (_DOCUMENT,),
    "/v1/decisions": ({"input": _PROMPT, "questions": [_QUESTION]},),
    "/v1/systemone": ({"state": _PROMPT, "model": MODEL_NAME, "questions": {
        "q": {"type": "noul", "instructions": "Is the sea blue?"}}},),
    "/encode": ({"text": _PROMPT},),
    "/classify": ({"text": _PROMPT},),
    "/abort_request": ({"rid": "nobody-has-this-id"},),
    "/open_session": ({"capacity_of_str_len": 100, "timeout": 5.0},),
    "/close_session": ({"session_id": "nobody-has-this-id"},),
    "/parse_function_call": ({"text": _PROMPT, "tools": [], "tool_call_parser": "llama3"},),
    "/separate_reasoning": ({"text": _PROMPT, "reasoning_parser": "deepseek-r1"},),
    "/get_weights_by_name": ({"name": "model.norm.weight", "truncate_size": 3},),
    "/set_internal_state": ({"server_args": {"no_such_knob": 1}},),
    "/configure_logging": ({"log_requests": False},),
    "/load_lora_adapter": ({"lora_name": "x", "lora_path": "/nowhere"},),
    "/load_lora_adapter_from_tensors": ({"lora_name": "x", "config_dict": {},
        "serialized_named_tensors": []},),
    "/unload_lora_adapter": ({"lora_name": "x"},),
    "/pd_role_switch": ({"new_role": "prefill"},),
    "/continue_generation": ({},),
    "/amoeba/transform": ({"ranks": [0], "degree": 1},),
}  # fmt: skip

# Bodies of these make text, and have to fit.
GENERATING = (
    "/generate", "/v1/completions", "/v1/chat/completions", "/invocations", "/v1/responses",
    "/v1/messages", "/api/chat", "/api/generate",
)  # fmt: skip

# How often a route is chosen beyond the one time for each of its fields.
WEIGHTS = {"/generate": 8, "/v1/chat/completions": 5, "/v1/completions": 4, "/v1/responses": 2,
           "/v1/messages": 2, "/api/chat": 1, "/api/generate": 1, "/v1/score": 1,
           "/amoeba/transform": 2}  # fmt: skip

_OPERATOR = "does what an operator asks for: it stops or changes the server for everybody"
EXCLUDED = {
    "/pause_generation": _OPERATOR,
    "/slow_down": _OPERATOR,
    "/release_memory_occupation": _OPERATOR,
    "/resume_memory_occupation": _OPERATOR,
    "/weights_checker": "its reset action overwrites weights, and its comparison then ends the run",
    "/update_weights_from_disk": "replaces weights",
    "/update_weights_from_tensor": "unpickles what it is sent, which only an operator may do",
    "/update_weights_from_distributed": "replaces weights",
    "/update_weights_from_ipc": "replaces weights",
    "/update_weight_version": "aborts all requests unless told otherwise: " + _OPERATOR,
    "/begin_weight_update": "replaces weights",
    "/end_weight_update": "replaces weights",
    "/init_weights_update_group": "waits for the peers of a group that nobody joins",
    "/destroy_weights_update_group": "needs such a group",
    "/init_weights_send_group_for_remote_instance": "waits for peers that nobody starts",
    "/send_weights_to_remote_instance": "waits for peers that nobody starts",
    "/get_remote_instance_transfer_engine_info": "belongs to the group above",
    "/remote_instance_transfer_engine_info": "belongs to the group above",
    "/start_profile": "writes profiles of the whole server to disk",
    "/stop_profile": "belongs to the above",
    "/freeze_gc": "changes the memory that is measured here",
    "/start_expert_distribution_record": "belongs to MoE models, and takes no fields",
    "/stop_expert_distribution_record": "belongs to MoE models, and takes no fields",
    "/dump_expert_distribution_record": "belongs to MoE models, and takes no fields",
    "/hicache/storage-backend": "loads a storage backend by module name: for an operator",
    "/hicache/storage-backend/clear": "belongs to the above",
    "/scale_elastic_ep": "belongs to MoE models",
    "/add_external_corpus": "reads files of the server: for an operator",
    "/remove_external_corpus": "belongs to the above",
    "/v1/audio/transcriptions": "takes a multipart form, not JSON, and no audio model is served",
    "/invocations": "is /v1/chat/completions by another name",
    "/classify": "is /encode by another name",
    "/health_generate": "asked between the phases anyway",
    "/metrics": "takes no fields",
}

# What must lie around a field of an object that the plain body has not.
PARENTS: dict[str, Any] = {
    "stream_options": {"include_usage": True},
    "response_format": {"type": "json_object"},
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "reasoning": {"effort": "low"},
}

# Values that do to the server what their field is for.
HARMFUL = {
    ("/abort_request", "abort_all"),
    # Writes files where a client says; only an operator may, and then it is right.
    ("/configure_logging", "dump_requests_folder"),
    ("/configure_logging", "crash_dump_folder"),
    ("/configure_logging", "log_level"),
}

# What a refusal of a whole route may name instead of a field: what the model or server cannot do.
SUBJECTS = {
    "/v1/embeddings": ("embedding",),
    "/encode": ("embedding",),
    "/v1/classify": ("classif", "embedding"),
    "/v1/rerank": ("rerank", "embedding"),
    "/load_lora_adapter": ("lora",),
    "/load_lora_adapter_from_tensors": ("lora",),
    "/unload_lora_adapter": ("lora",),
    "/pd_role_switch": ("role", "disaggregation"),
    "/parse_function_call": ("tool", "parser"),
    "/separate_reasoning": ("parser", "model type"),
    "/vertex_generate": ("/vertex_generate",),
    "/set_internal_state": ("pp_max_micro_batch_size",),
    "/v1/messages/count_tokens": ("tool", "message"),
    "/get_weights_by_name": ("weight",),
    "/v1/decisions": ("question",),
    "/v1/systemone": ("prompt",),
    # The valid body names ranks that some layouts do not change alone, or not now.
    "/amoeba/transform": ("ranks", "operation"),
    "/close_session": ("session",),
    "/open_session": ("session",),
}
