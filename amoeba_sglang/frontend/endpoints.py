"""What becomes of every HTTP endpoint while workers merge and split.

An endpoint that is in none of these tables is a new one of upstream's: the tests say so, and until
someone has looked at it, it is treated as one that changes something.

endpoint                            at degree 1        merged             during a change
----------------------------------  -----------------  -----------------  -----------------
/get_weights_by_name                of all workers     400: shards        400: shards
/update_weights_from_disk           all workers        400: shards        400: shards
/flush_cache                        all or none        all or none        400, or waits for its end
/start_profile, /stop_profile       all, 400 if any of them cannot
/set_internal_state                 all, 400 if any of them cannot
/slow_down                          all, 400 beyond what the watchdog lets pass
/server_info, /get_server_info      one entry a worker, with what it has of an instance's memory
/v1/loads, /get_load                one entry a worker, with what it has of an instance's memory
/pause_generation, /continue_..     all: a paused worker goes on stepping with its peers
/abort_request                      all, and what waits in the router
/update_weight_version, /freeze_gc, /configure_logging    all: they touch no weights and no KV
/set_trace_level, /hicache/storage-backend (GET), /get_hicache_l3_cache_layout, /amoeba/state
                                    answered without the workers, or the same by each
/amoeba/events                      what /amoeba shows, answered by the router while it is read
all in REFUSED                      400 with the reason
"""

import os
from typing import Any

from amoeba_sglang.frontend.pages import ADDRESS, page_files

_SESSIONS = "sessions are not supported: the turns of a session may go to different workers"
_ONE_GROUP = "weights are only updated from disk: use /update_weights_from_disk"
_SENT = "weights are not sent to other servers: a worker may have only a shard of them"
_MEMORY = "the memory saver is not supported: --enable-memory-saver is not served"
_LORA = "LoRA is not supported"
_EXPERTS = "expert parallelism is not supported"
_CORPUS = "speculative decoding is not supported"
_HICACHE = "a hierarchical KV cache is not supported"

REFUSED = {
    os.environ.get("AIP_PREDICT_ROUTE", "/vertex_generate"): "is not served, since "
    "SGLang does not check its fields: use /generate",
    "/open_session": _SESSIONS,
    "/close_session": _SESSIONS,
    "/init_weights_update_group": _ONE_GROUP,
    "/destroy_weights_update_group": _ONE_GROUP,
    "/begin_weight_update": _ONE_GROUP,
    "/end_weight_update": _ONE_GROUP,
    "/update_weights_from_tensor": _ONE_GROUP,
    "/update_weights_from_distributed": _ONE_GROUP,
    "/update_weights_from_ipc": _ONE_GROUP,
    "/init_weights_send_group_for_remote_instance": _SENT,
    "/send_weights_to_remote_instance": _SENT,
    "/get_remote_instance_transfer_engine_info": _SENT,
    "/remote_instance_transfer_engine_info": _SENT,
    "/weights_checker": "weights are kept in another order, and a worker may have only a shard",
    "/release_memory_occupation": _MEMORY,
    "/resume_memory_occupation": _MEMORY,
    "/load_lora_adapter": _LORA,
    "/load_lora_adapter_from_tensors": _LORA,
    "/unload_lora_adapter": _LORA,
    "/start_expert_distribution_record": _EXPERTS,
    "/stop_expert_distribution_record": _EXPERTS,
    "/dump_expert_distribution_record": _EXPERTS,
    "/scale_elastic_ep": f"{_EXPERTS}; POST /amoeba/transform changes the layout",
    "/is_scaling_elastic_ep": f"{_EXPERTS}; GET /amoeba/state shows the layout",
    "/add_external_corpus": _CORPUS,
    "/remove_external_corpus": _CORPUS,
    "/list_external_corpora": _CORPUS,
    "/hicache/storage-backend/clear": _HICACHE,
    "/pd_role_switch": "prefill/decode disaggregation is not supported",
    "/dumper/{method}": "dumping is not supported: a joint step runs upstream's layers in pieces",
}

REFUSED_METHODS = {("/hicache/storage-backend", method): _HICACHE for method in ("PUT", "DELETE")}

CONTROL = frozenset({
    "/get_weights_by_name", "/update_weights_from_disk", "/flush_cache", "/start_profile",
    "/stop_profile", "/set_internal_state", "/slow_down", "/server_info", "/get_server_info",
    "/v1/loads", "/get_load", "/pause_generation", "/continue_generation", "/abort_request",
    "/update_weight_version", "/freeze_gc", "/configure_logging", "/set_trace_level",
    "/hicache/storage-backend", "/get_hicache_l3_cache_layout", "/amoeba/state",
    "/amoeba/events", "/amoeba/transform",
})  # fmt: skip

# They run or describe a model and change nothing else: any page may use them, as upstream has it.
INFERENCE = frozenset({
    "/", "/api/chat", "/api/generate", "/api/show", "/api/tags", "/classify", "/detokenize",
    "/docs", "/docs/oauth2-redirect", "/encode", "/generate", "/get_model_info", "/health",
    "/health_generate", "/invocations", "/metrics", "/model_info", "/openapi.json",
    "/parse_function_call", "/ping", "/ready", "/redoc", "/separate_reasoning", "/tokenize",
    "/v1/audio/transcriptions", "/v1/chat/completions", "/v1/classify",
    "/v1/completions", "/v1/decisions", "/v1/detokenize", "/v1/embeddings", "/v1/messages",
    "/v1/messages/count_tokens", "/v1/models", "/v1/realtime", "/v1/rerank", "/v1/responses",
    "/v1/score", "/v1/systemone", "/v1/tokenize",
})  # fmt: skip
# Static files, which say nothing of the server: pages of other sites may lead to them.
PAGE = frozenset({ADDRESS, *page_files()})
_INFERENCE_BELOW = ("/v1/models/", "/v1/responses/", "/metrics/")


def path_of(scope: dict[str, Any]) -> str:
    """The path of an ASGI request below the root path (`--fastapi-root-path`)."""
    path, root = scope["path"], scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def is_inference(path: str) -> bool:
    """Whether a path changes nothing but what its own answer takes."""
    return path in INFERENCE or path in PAGE or path.startswith(_INFERENCE_BELOW)


def refusal_of(path: str, method: str) -> str | None:
    """Why an endpoint is not served, or None."""
    reason = REFUSED_METHODS.get((path, method), REFUSED.get(path))
    if reason is None and path.startswith("/dumper/"):
        reason = REFUSED["/dumper/{method}"]
    return None if reason is None else f"{method} {path}: {reason}"
