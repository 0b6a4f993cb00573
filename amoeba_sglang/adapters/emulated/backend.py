"""`--amoeba-emulate`: workers that pretend to run a device's model."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import TYPE_CHECKING, Any

from amoeba_sglang.adapters.backend import Backend
from amoeba_sglang.config import AmoebaConfig, ModelHeads
from amoeba_sglang.control.device import load_device
from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.planes.emulated.plane import EmulatedPlane
from amoeba_sglang.planes.emulated.timeline import Timeline

if TYPE_CHECKING:
    from amoeba_sglang.adapters.worker.connections import Groups

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
            raise ConfigError(f"--amoeba-emulate-dilation {dilation:g}: it needs --amoeba-emulate")
        return None
    if dilation is None:
        raise ConfigError(
            f"--amoeba-emulate {options.amoeba_emulate}: it needs --amoeba-emulate-dilation X, "
            f"real seconds of an emulated second, 1 to {MOST_DILATION:g}"
        )
    if not 1 <= dilation <= MOST_DILATION:
        raise ConfigError(
            f"--amoeba-emulate-dilation {dilation:g}: not from 1 to {MOST_DILATION:g}"
        )
    try:
        return Emulation(load_device(options.amoeba_emulate), dilation)
    except ConfigError as error:
        raise ConfigError(f"--amoeba-emulate: {error}") from error


class EmulatedBackend(Backend):
    """A stub with the vocabulary of the model on disk, and all else of the device's model."""

    name = "emulated"
    no_weights = "an emulated server has none"
    classes = {"mha_kv_pool": "amoeba_sglang.adapters.emulated.kv_pool.EmulatedKVPool"}

    def __init__(self, emulation: Emulation) -> None:
        self.emulation, self.dilation = emulation, emulation.dilation
        self.sentence, self.description = emulation.sentence, emulation.describe()

    def adjust(self, server_args: Any) -> None:
        for field in ("max_total_tokens", "context_length"):
            given = getattr(server_args, field)
            if given is not None:
                flag = field.replace("_", "-")
                raise ConfigError(
                    f"--{flag} {given}: an emulated server has that of its device and model"
                )
        if server_args.page_size not in (None, 1):
            raise ConfigError(
                f"--page-size {server_args.page_size}: an emulated server has KV pages of 1 token"
            )
        device = self.emulation.device
        given = json.loads(server_args.json_model_override_args)
        limits = {"max_position_embeddings": device.model.max_request_tokens}
        server_args.json_model_override_args = json.dumps({**given, **_STUB, **limits})
        server_args.load_format = "dummy"
        if server_args.max_running_requests is None:
            server_args.max_running_requests = USUAL_ROWS
        server_args.served_model_name = f"EMULATED {device.model.name} on {device.name}"

    def heads(self, model: ModelHeads) -> ModelHeads:
        """Those of the device's model, whatever the one on disk has."""
        shape = self.emulation.device.model
        return ModelHeads(
            attention_heads=shape.heads,
            kv_heads=shape.kv_heads,
            layers=shape.layers,
            mlp_elements=shape.mlp_bytes // (shape.layers * shape.dtype_bytes),
            kv_bytes=shape.token_bytes // shape.layers,
        )

    def require_degrees(self, degrees: tuple[int, ...]) -> None:
        for degree in degrees:
            self.emulation.device.require_degree(degree)

    def kv_page(self, chunk: int | None) -> int:
        return 1

    def own_tokens(self, given: int | None, degrees: tuple[int, ...]) -> int:
        return self.emulation.device.elastic_tokens(degrees)[1]

    def refusal(self, request: Any) -> str | None:
        """Only a real model knows probabilities, or follows a grammar."""
        if request.return_logprob:
            return "logprobs: this server is EMULATED and has none"
        params = request.sampling_params
        for name in ("json_schema", "regex", "ebnf", "structural_tag"):
            if params.get(name):
                return f"{name}: this server is EMULATED, its tokens are arbitrary"
        return None

    def adopt(self, model: Any, config: AmoebaConfig) -> None:
        """Nothing: the model is a stub that never runs."""

    def make_plane(self, scheduler: Any, rank: int, groups: Groups) -> EmulatedPlane:
        # Imports SGLang, see Backend.
        from amoeba_sglang.adapters.emulated.executor import EmulatedExecutor, EmulatedLayer
        from amoeba_sglang.adapters.emulated.sampler import EmulatedSampler

        config, emulation = scheduler.server_args._amoeba, self.emulation
        chain, index = DegreeChain(config.degrees), rank % config.group_size
        size = scheduler.token_to_kv_pool_allocator.num_pages
        assert size == self.own_tokens(None, config.degrees), size
        scheduler.tp_worker.model_runner.sampler = EmulatedSampler()
        timeline = Timeline(scheduler.clock)
        executor = EmulatedExecutor(
            emulation,
            [EmulatedLayer() for _ in range(emulation.device.model.layers)],
            index,
            vocabulary=scheduler.model_config.vocab_size,
            timeline=timeline,
        )
        return EmulatedPlane(emulation, chain, index, executor, timeline)
