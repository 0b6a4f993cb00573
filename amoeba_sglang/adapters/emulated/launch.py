"""`--amoeba-emulate`: a server that pretends to run a device's model."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

from amoeba_sglang.config import ModelHeads
from amoeba_sglang.control.device import DeviceModel, load_device
from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.errors import ConfigError

EXTENSION_CLASSES = {
    "scheduler": "amoeba_sglang.adapters.emulated.scheduler.EmulatedScheduler",
    "mha_kv_pool": "amoeba_sglang.adapters.emulated.kv_pool.EmulatedKVPool",
}
# Requests that a worker runs at a time unless a flag says otherwise.
USUAL_ROWS = 256
# Beyond it a step may keep its peers waiting for longer than they wait.
MOST_DILATION = 50.0
# What is built of the model: it never computes, only its vocabulary and tokenizer are used.
_STUB = {
    "num_hidden_layers": 1,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 8,
}


def read_emulation(options: Namespace) -> Emulation | None:
    """What the flags ask for; ConfigError names the one at fault."""
    dilation = options.amoeba_emulate_dilation
    if options.amoeba_emulate is None:
        if dilation is not None:
            raise ConfigError("--amoeba-emulate-dilation: only a server with --amoeba-emulate is")
        return None
    if dilation is None:
        raise ConfigError("--amoeba-emulate: how fast is for --amoeba-emulate-dilation to say")
    if not 1 <= dilation <= MOST_DILATION:
        raise ConfigError(
            f"--amoeba-emulate-dilation {dilation:g}: not from 1 to {MOST_DILATION:g}"
        )
    try:
        return Emulation(load_device(options.amoeba_emulate), dilation)
    except ConfigError as error:
        raise ConfigError(f"--amoeba-emulate: {error}") from error


def pretend(server_args: Any, device: DeviceModel) -> None:
    """Make `server_args` those of a stub with the context length of the device's model."""
    for field in ("max_total_tokens", "context_length"):
        if getattr(server_args, field) is not None:
            flag = field.replace("_", "-")
            raise ConfigError(f"--{flag}: an emulated server has that of its device and model")
    if server_args.page_size not in (None, 1):
        raise ConfigError(
            f"--page-size {server_args.page_size}: an emulated server has KV pages of 1 token"
        )
    given = json.loads(server_args.json_model_override_args)
    limits = {"max_position_embeddings": device.model.max_request_tokens}
    server_args.json_model_override_args = json.dumps({**given, **_STUB, **limits})
    server_args.load_format = "dummy"
    if server_args.max_running_requests is None:
        server_args.max_running_requests = USUAL_ROWS
    server_args.served_model_name = f"EMULATED {device.model.name} on {device.name}"


def heads_of(device: DeviceModel) -> ModelHeads:
    model = device.model
    return ModelHeads(
        attention_heads=model.heads,
        kv_heads=model.kv_heads,
        layers=model.layers,
        mlp_elements=sum(model.mlp_matrices) // (model.layers * model.dtype_bytes),
        kv_bytes=model.token_bytes // model.layers,
    )


def refuse_emulated(request: Any) -> str | None:
    """Why a generate request asks for what only a real model knows, or None."""
    if request.return_logprob:
        return "logprobs: this server is EMULATED and has none"
    params = request.sampling_params
    for name in ("json_schema", "regex", "ebnf", "structural_tag"):
        if params.get(name):
            return f"{name}: this server is EMULATED, its tokens are arbitrary"
    return None
