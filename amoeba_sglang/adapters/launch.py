"""From flags to a running server: SGLang's arguments become those of an Amoeba server.

Only functions import SGLang here, since importing it takes seconds and settles its platform.
"""

import argparse
import os
from collections.abc import Callable
from typing import Any, TypeVar

from amoeba_sglang.adapters.backend import Backend
from amoeba_sglang.config import AmoebaConfig, GpuChoice, build_config
from amoeba_sglang.control.layout.expert_order import ExpertLoads
from amoeba_sglang.control.policy.throughput import ThroughputTable
from amoeba_sglang.control.router.limits import RequestLimits
from amoeba_sglang.errors import ConfigError

Saved = TypeVar("Saved")

EXTENSION_CLASSES = {
    "scheduler": "amoeba_sglang.adapters.worker.scheduler.ElasticScheduler",
    "data_parallel_controller": "amoeba_sglang.adapters.router.controller.ElasticController",
    "mha_kv_pool": "amoeba_sglang.adapters.model.kv_pool.ElasticKVPool",
    "paged_allocator": "amoeba_sglang.adapters.model.kv_allocator.ElasticAllocator",
}


def parse_server_args(rest: list[str]) -> Any:
    """SGLang's ServerArgs, as given; its parser prints its own errors and help and exits."""
    from sglang.srt.server_args import prepare_server_args

    return prepare_server_args(rest)


def prepare(
    server_args: Any, options: argparse.Namespace, gpu: GpuChoice | None, run_directory: str
) -> AmoebaConfig:
    """Check everything, then make `server_args` and the environment those of an Amoeba server.
    `gpu`: see choose_backend."""
    from amoeba_sglang.adapters.choice import choose_backend
    from amoeba_sglang.adapters.emulated.backend import read_emulation
    from amoeba_sglang.frontend.ending import end_start

    backend = choose_backend(server_args.device, read_emulation(options), gpu)
    config = check(server_args, options, backend, run_directory)
    server_args.tp_size, server_args.dp_size = 1, config.workers
    server_args.max_total_tokens = backend.own_tokens(server_args.max_total_tokens, config.degrees)
    # An idle worker must sleep in its poller: that is where its peers' bells wake it.
    server_args.sleep_on_idle = True
    server_args.custom_sigquit_handler = end_start
    server_args._amoeba = config
    server_args._extension_classes = {**EXTENSION_CLASSES, **backend.classes}
    server_args._one_world = True
    server_args._start_method = backend.start_method
    prepare_environment(config, backend)
    return config


def check(
    server_args: Any, options: argparse.Namespace, backend: Backend, run_directory: str
) -> AmoebaConfig:
    """The configuration that the flags and the model on disk make; ConfigError if they do not fit.

    `server_args` get what the backend settles and the page of the KV.
    """
    import msgspec
    from sglang.srt.configs.model_config import ModelConfig

    from amoeba_sglang.adapters.supported import require_supported_flags, require_supported_model

    fields = msgspec.structs.fields(type(server_args))
    require_supported_flags(
        {field.name: getattr(server_args, field.name) for field in fields},
        {field.name: field.default for field in fields},
        backend.unsupported,
    )
    backend.adjust(server_args)
    try:
        model = ModelConfig.from_server_args(server_args)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--model-path {server_args.model_path}: {reason}") from error
    heads = backend.heads(require_supported_model(model))
    if server_args.page_size is None:
        server_args.page_size = backend.kv_page(server_args.chunked_prefill_size)
    _require_transport(options.amoeba_transport, backend)
    config = build_config(
        options,
        group_size=server_args.tp_size,
        groups=server_args.dp_size,
        heads=heads,
        kv_page=server_args.page_size,
        run_directory=run_directory,
        dilation=backend.dilation,
        emulation=backend.emulation,
        throughput_table=read_saved(
            "--amoeba-throughput-table",
            options.amoeba_throughput_table,
            ThroughputTable.from_json,
        ),
        expert_loads=read_saved(
            "--amoeba-expert-loads", options.amoeba_expert_loads, ExpertLoads.from_json
        ),
        watchdog_timeout_s=server_args.watchdog_timeout,
        gpu=backend.gpu,
        pages=backend.pages,
    )
    backend.require_degrees(config.degrees)
    return config


def _require_transport(transport: str, backend: Backend) -> None:
    if transport not in backend.transports:
        there = ", ".join(backend.transports)
        raise ConfigError(
            f"--amoeba-transport {transport}: on {backend.name} workers have {there}; leave it out"
        )


def prepare_environment(config: AmoebaConfig, backend: Backend) -> None:
    """Variables that the children read; what the user has set stays."""
    os.environ["SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"] = config.rendezvous
    # All workers are on this host.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    for name, value in backend.environment(config.workers).items():
        os.environ.setdefault(name, value)
    if backend.start_method == "fork":
        import torch

        # Children have this process's torch, which was imported before the variable was set.
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def read_saved(flag: str, file: str | None, parse: Callable[[str], Saved]) -> Saved | None:
    """What an earlier run saved in the file of a flag; None without a file."""
    if file is None or not os.path.exists(file):
        return None
    try:
        with open(file) as text:
            return parse(text.read())
    except (OSError, ConfigError) as error:
        raise ConfigError(
            f"{flag} {file}: {error}; name another file, or remove this one to have it measured "
            "anew"
        ) from error


def serve(server_args: Any, config: AmoebaConfig) -> None:
    """Run the server; whatever ends it, its processes end with it."""
    from sglang.srt.entrypoints import http_server

    from amoeba_sglang.adapters.frontend.bodies import check_bodies
    from amoeba_sglang.adapters.frontend.routes import add_routes
    from amoeba_sglang.adapters.frontend.tokenizer_manager import init_elastic_tokenizer_manager
    from amoeba_sglang.frontend.early_errors import EarlyErrors
    from amoeba_sglang.frontend.ending import kill_children
    from amoeba_sglang.frontend.gate import Gate
    from amoeba_sglang.frontend.warm_up import measure_throughput

    def manager() -> Any:
        return http_server.get_global_state().tokenizer_manager

    ask, feed = lambda *args: manager().ask_router(*args), lambda: manager().feed
    add_routes(http_server.app, ask, feed)
    http_server.app.add_middleware(EarlyErrors)
    check_bodies(http_server.app, lambda: manager().model_config.vocab_size)
    # The last one added comes first.
    http_server.app.add_middleware(Gate)

    def announce() -> None:
        manager().forget_load_file()
        if config.throughput_file is not None and config.throughput_table is None:
            measure_throughput(server_args, config, manager().limits.own_tokens)
        sentence, limits = manager().backend.sentence, manager().limits
        print(describe(config, sentence, limits, server_args.url()), flush=True)

    try:
        http_server.launch_server(
            server_args,
            init_tokenizer_manager_func=init_elastic_tokenizer_manager,
            launch_callback=announce,
        )
    finally:
        kill_children()


def describe(config: AmoebaConfig, sentence: str, limits: RequestLimits, url: str) -> str:
    """The line that says that the server is ready. `sentence`: of its backend."""
    degree = str(config.initial_degree)
    layout = "+".join([degree] * (config.workers // config.initial_degree))
    said = f"{sentence}; " if sentence else ""
    return (
        f"Amoeba is ready at {url}: {said}{config.workers} workers, layout {layout}, "
        f"degrees {','.join(map(str, config.degrees))}, transport {config.transport}, "
        f"policy {config.policy}, requests of up to {limits.own_tokens} tokens, "
        f"{limits.largest_tokens} when merged"
    )
