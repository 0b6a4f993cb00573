"""python -m amoeba_sglang.launch_server: every flag of SGLang plus --amoeba-*.

`--tp-size N --dp-size M` become M * N workers at degree 1, which SGLang sees as data-parallel
replicas and Amoeba as M groups of N workers that can merge.
"""

import argparse
import os
import sys
from dataclasses import replace

from amoeba_sglang.adapters.cpu import NAME as CPU_PLATFORM
from amoeba_sglang.adapters.cpu import VARIABLE as PLATFORM_VARIABLE
from amoeba_sglang.adapters.cuda import NAME as CUDA_PLATFORM
from amoeba_sglang.adapters.cuda.flags import choose_attention, find_kind, say_attention
from amoeba_sglang.adapters.launch import parse_server_args, prepare, serve
from amoeba_sglang.adapters.reference import NAME as REFERENCE_PLATFORM
from amoeba_sglang.config import GpuChoice
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.flags import make_parser
from amoeba_sglang.host.ports import require_free
from amoeba_sglang.host.run_directory import RunDirectory
from amoeba_sglang.patch.state import require_patched


def main(argv: list[str]) -> int:
    """Serve until told to stop; returns the exit code, 2 for what cannot be served."""
    parser = make_parser()
    options, rest = parser.parse_known_args(argv)
    try:
        require_patched()
        rest, gpu = choose_device(rest, options.amoeba_reference_device)
        if options.amoeba_share_gpu:
            gpu = share(gpu, options.amoeba_reference_device)
        if "-h" in rest or "--help" in rest:
            parser.print_help()
        server_args = parse_server_args(rest)
        directory = RunDirectory()
        config = prepare(server_args, options, gpu, directory.path)
        require_free(server_args.host, server_args.port)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    directory.adopt()
    serve(server_args, config)
    return 0


def share(gpu: GpuChoice | None, reference: str | None) -> GpuChoice:
    """The same GPU for all workers; ConfigError if there is none."""
    if gpu is None or reference is not None:
        raise ConfigError(
            "--amoeba-share-gpu: only workers on a GPU can share it; use --device cuda without "
            "--amoeba-reference-device, or leave it out"
        )
    return replace(gpu, shared=True)


def choose_device(rest: list[str], reference: str | None) -> tuple[list[str], GpuChoice | None]:
    """SGLang's flags with the device said, its platform chosen, which importing it settles, and
    what is computed on if it is not the host. `reference`: the kind of GPUs that the host is to
    stand for."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--device")
    known, others = parser.parse_known_args(rest)
    device = known.device
    if reference is not None:
        if device != "cuda":
            raise ConfigError(
                f"--amoeba-reference-device {reference}: it stands for --device cuda, not for "
                f"{device or 'what is found'}; add --device cuda"
            )
        os.environ[PLATFORM_VARIABLE] = REFERENCE_PLATFORM
        compile_nothing()
        # Read when Triton is imported, here and in the workers.
        os.environ["TRITON_INTERPRET"] = "1"
        row, others = choose_attention(others, reference)
        return [*others, "--device", "cpu"], GpuChoice(reference, row.attention)
    if device is None:
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        kind = find_kind()
        row, others = choose_attention(others, kind)
        os.environ[PLATFORM_VARIABLE] = CUDA_PLATFORM
        rest = [*say_attention(others, row), "--device", "cuda"]
        return rest, GpuChoice(kind, row.attention)
    if device == "cpu":
        # An empty variable means to SGLang what none means.
        os.environ[PLATFORM_VARIABLE] = os.environ.get(PLATFORM_VARIABLE) or CPU_PLATFORM
        compile_nothing()
    return [*others, "--device", device], None


def compile_nothing() -> None:
    """SGLang compiles a few tiny functions; on a CPU that takes a C++ compiler and start-up time.
    Read when torch's compiler is imported, here and in the workers; what the user has set stays."""
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
