"""python -m amoeba_sglang.launch_server: every flag of SGLang plus --amoeba-*.

`--tp-size N --dp-size M` become M * N workers at degree 1, which SGLang sees as data-parallel
replicas and Amoeba as M groups of N workers that can merge.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from amoeba_sglang.adapters.cpu import NAME as CPU_PLATFORM
from amoeba_sglang.adapters.cpu import VARIABLE as PLATFORM_VARIABLE
from amoeba_sglang.host.cores import cpu_bindings, threads_per_worker
from amoeba_sglang.config import AmoebaConfig, build_config
from amoeba_sglang.control.policy.throughput import ThroughputTable
from amoeba_sglang.control.router.limits import RequestLimits
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.flags import make_parser
from amoeba_sglang.host.ports import require_free
from amoeba_sglang.host.run_directory import RunDirectory
from amoeba_sglang.patch.state import require_patched

EXTENSION_CLASSES = {
    "scheduler": "amoeba_sglang.adapters.worker.scheduler.ElasticScheduler",
    "data_parallel_controller": "amoeba_sglang.adapters.router.controller.ElasticController",
    "mha_kv_pool": "amoeba_sglang.adapters.model.kv_pool.ElasticKVPool",
    "paged_allocator": "amoeba_sglang.adapters.model.kv_allocator.ElasticAllocator",
}


KV_PAGE = 16
"""Tokens of a KV page unless --page-size says it."""


def main(argv: list[str]) -> int:
    """Serve until told to stop; returns the exit code, 2 for what cannot be served."""
    parser = make_parser()
    options, rest = parser.parse_known_args(argv)
    try:
        require_patched()
        rest = choose_device(rest)
        if "-h" in rest or "--help" in rest:
            parser.print_help()
        server_args = parse_server_args(rest)
        directory = RunDirectory()
        config = prepare(server_args, options, directory.path)
        require_free(server_args.host, server_args.port)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    directory.adopt()
    serve(server_args, config)
    return 0


def choose_device(rest: list[str]) -> list[str]:
    """SGLang's flags with the device said, and its platform chosen, which importing it settles."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device")
    device = parser.parse_known_args(rest)[0].device
    if device is None:
        import torch

        if torch.cuda.is_available():
            return rest
        rest = [*rest, "--device", "cpu"]
    elif device != "cpu":
        return rest
    # An empty variable means to SGLang what none means.
    os.environ[PLATFORM_VARIABLE] = os.environ.get(PLATFORM_VARIABLE) or CPU_PLATFORM
    return rest


def parse_server_args(rest: list[str]) -> Any:
    """SGLang's ServerArgs, as given; its parser prints its own errors and help and exits."""
    from sglang.srt.server_args import prepare_server_args

    return prepare_server_args(rest)


def prepare(server_args: Any, options: argparse.Namespace, run_directory: str) -> AmoebaConfig:
    """Check everything, then make `server_args` and the environment those of an Amoeba server."""
    import msgspec
    from sglang.srt.configs.model_config import ModelConfig

    from amoeba_sglang.adapters.emulated.launch import EXTENSION_CLASSES as EMULATED_CLASSES
    from amoeba_sglang.adapters.emulated.launch import heads_of, pretend, read_emulation
    from amoeba_sglang.adapters.supported import require_supported_flags, require_supported_model
    from amoeba_sglang.frontend.ending import end_start

    if server_args.device != "cpu":
        raise ConfigError(
            f"--device {server_args.device}: joint steps run only on the CPU yet, use --device cpu"
        )
    fields = msgspec.structs.fields(type(server_args))
    emulation = read_emulation(options)
    require_supported_flags(
        {field.name: getattr(server_args, field.name) for field in fields},
        {field.name: field.default for field in fields},
        emulation is not None,
    )
    if emulation is not None:
        pretend(server_args, emulation.device)
    try:
        model = ModelConfig.from_server_args(server_args)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"--model-path {server_args.model_path}: {reason}") from error
    heads = require_supported_model(model)
    if emulation is not None:
        heads = heads_of(emulation.device)
    if server_args.page_size is None:
        chunk = server_args.chunked_prefill_size
        server_args.page_size = 1 if emulation is not None else default_kv_page(chunk)
    table = read_table(options.amoeba_throughput_table)
    sizes = server_args.tp_size, server_args.dp_size
    config = build_config(
        options,
        *sizes,
        heads,
        server_args.page_size,
        run_directory,
        emulation,
        table,
        server_args.watchdog_timeout,
    )
    server_args.tp_size, server_args.dp_size = 1, config.workers
    # An idle worker must sleep in its poller: that is where its peers' bells wake it.
    server_args.sleep_on_idle = True
    server_args.custom_sigquit_handler = end_start
    server_args._amoeba = config
    server_args._extension_classes = EXTENSION_CLASSES
    if emulation is not None:
        server_args.max_total_tokens = emulation.device.elastic_tokens(config.degrees)[1]
        server_args._extension_classes = EXTENSION_CLASSES | EMULATED_CLASSES
    server_args._one_world = True
    prepare_environment(config)
    return config


def default_kv_page(chunk: int | None) -> int:
    """`chunk`: --chunked-prefill-size.

    In the pool of a merged instance the slots of its workers take turns: with slots of one token
    attention would gather scattered runs, which costs more time than pages cost memory.
    """
    return 1 if chunk is not None and chunk > 0 and chunk % KV_PAGE else KV_PAGE


def prepare_environment(config: AmoebaConfig) -> None:
    """Variables that the children read; what the user has set stays."""
    os.environ["SGLANG_DISTRIBUTED_INIT_METHOD_OVERRIDE"] = config.rendezvous
    # All workers are on this host.
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # SGLang compiles a few tiny functions; on the CPU that takes a C++ compiler and start-up time.
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    cores = sorted(os.sched_getaffinity(0))
    threads = threads_per_worker(config.workers, len(cores))
    os.environ.setdefault("SGLANG_CPU_OMP_THREADS_BIND", cpu_bindings(config.workers, cores))
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def read_table(file: str | None) -> ThroughputTable | None:
    """The saved table; None without a file."""
    if file is None or not os.path.exists(file):
        return None
    try:
        with open(file) as text:
            return ThroughputTable.from_json(text.read())
    except (OSError, ConfigError) as error:
        raise ConfigError(f"--amoeba-throughput-table {file}: {error}") from error


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

    add_routes(http_server.app, lambda *args: manager().ask_router(*args))
    http_server.app.add_middleware(EarlyErrors)
    check_bodies(http_server.app, lambda: manager().model_config.vocab_size)
    # The last one added comes first.
    http_server.app.add_middleware(Gate)

    def announce() -> None:
        manager().forget_load_file()
        if config.throughput_file is not None and config.throughput_table is None:
            measure_throughput(server_args, config, manager().limits.own_tokens)
        print(describe(config, manager().limits, server_args.url()), flush=True)

    try:
        http_server.launch_server(
            server_args,
            init_tokenizer_manager_func=init_elastic_tokenizer_manager,
            launch_callback=announce,
        )
    finally:
        kill_children()


def describe(config: AmoebaConfig, limits: RequestLimits, url: str) -> str:
    """The line that says that the server is ready."""
    degree = str(config.initial_degree)
    layout = "+".join([degree] * (config.workers // config.initial_degree))
    emulated = "" if config.emulation is None else f"{config.emulation.sentence}; "
    return (
        f"Amoeba is ready at {url}: {emulated}{config.workers} workers, layout {layout}, "
        f"degrees {','.join(map(str, config.degrees))}, transport {config.transport}, "
        f"policy {config.policy}, requests of up to {limits.own_tokens} tokens, "
        f"{limits.largest_tokens} when merged"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
