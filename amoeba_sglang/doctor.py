"""Say on one screen whether a server can start here, and what to do where it cannot.

    python -m amoeba_sglang.doctor [--model-path DIR] [--tp-size N] [--host H] [--port P]

Exit code 0 if all is well, else 1. It starts nothing and changes nothing.
"""

import argparse
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from amoeba_sglang.control.layout.decoder import load_model
from amoeba_sglang.control.layout.reach import Reach, cut_block, find_order
from amoeba_sglang.errors import AmoebaError, ConfigError
from amoeba_sglang.host.ports import require_free
from amoeba_sglang.patch.state import installed_state, require_patched
from amoeba_sglang.planes.memory.driver import load_bindings
from amoeba_sglang.planes.memory.mapping import mapping_limit
from amoeba_sglang.planes.memory.peers import read_reach

BUNDLED_MODEL = ".cache/models/smollm2-135m-kv4"
MIB = 2**20
# Python, torch and SGLang in a worker, and in the processes around the workers.
WORKER_BYTES, FRONTEND_BYTES = 1024 * MIB, 1536 * MIB
# Semaphores and load reports; the memory of workers has no name there.
SHM_BYTES = 16 * MIB
# A connection each for the clients, and a few hundred for the server itself.
DESCRIPTORS = 4096
# Linux's own default, for the pages that weights and KV are mapped in.
MAPPINGS = 65530
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")


@dataclass(frozen=True)
class Finding:
    """What one check found; `remedy` is empty where it found nothing wrong."""

    name: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        mark = "FAIL" if self.remedy else "ok"
        line = f"{mark:<5}{self.name:<15}{self.text}"
        return f"{line}\n{'':<20}-> {self.remedy}" if self.remedy else line


def main(argv: list[str] | None = None) -> int:
    """Print a line for each check; 0 if none has failed."""
    parser = argparse.ArgumentParser(prog="python -m amoeba_sglang.doctor")
    parser.add_argument("--model-path", default=BUNDLED_MODEL, metavar="DIR")
    parser.add_argument("--tp-size", type=int, default=2, metavar="N", help="workers (default: 2)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30000)
    options = parser.parse_args(argv)
    findings = examine(options)
    for finding in findings:
        print(finding)
    failed = sum(bool(finding.remedy) for finding in findings)
    print("a server can start here" if not failed else f"{failed} of {len(findings)} checks failed")
    return 1 if failed else 0


def examine(options: argparse.Namespace) -> list[Finding]:
    model = Path(options.model_path)
    return [
        check_sglang(),
        check_device(platform.machine(), _count_gpus),
        *check_peers(_read_reach, options.tp_size),
        check_limit(
            "memory",
            read_available(Path("/proc/meminfo").read_text()),
            memory_needed(model, options.tp_size),
            f"use a smaller model than {model} or fewer workers (--tp-size {options.tp_size})",
            MIB,
        ),
        check_limit(
            "shared memory",
            shutil.disk_usage("/dev/shm").free,
            SHM_BYTES,
            "free or enlarge /dev/shm (docker run --shm-size=1g)",
            MIB,
        ),
        check_limit(
            "open files",
            # SGLang raises its own limit to the hard one.
            resource.getrlimit(resource.RLIMIT_NOFILE)[1],
            DESCRIPTORS,
            f"ulimit -Hn {DESCRIPTORS}, as root, in the shell that starts the server",
        ),
        check_limit(
            "memory maps",
            mapping_limit(),
            MAPPINGS,
            f"sysctl -w vm.max_map_count={MAPPINGS}",
        ),
        # Only pinned memory for a GPU would be locked.
        check_limit("locked memory", resource.getrlimit(resource.RLIMIT_MEMLOCK)[1], 0, ""),
        check_model(model),
        check_port(options.host, options.port),
    ]


def check_sglang() -> Finding:
    try:
        require_patched()
        version = installed_state().target.version
    except ConfigError as error:
        # Its text ends with the command that mends it, where there is one.
        return Finding("SGLang", "cannot be used", str(error))
    return Finding("SGLang", f"{version}, all patches applied")


def check_device(machine: str, count_gpus: Callable[[], int]) -> Finding:
    if machine != "x86_64":
        return Finding("device", f"{machine} CPU", "use an x86-64 machine: workers run on no other")
    text = f"CPU, {len(os.sched_getaffinity(0))} cores"
    if gpus := count_gpus():
        text += f"; {gpus} GPUs, used by default: no server has run on one yet"
    return Finding("device", text)


def _count_gpus() -> int:
    try:
        import torch
    except ImportError:
        return 0
    return torch.cuda.device_count()


def _read_reach() -> Reach:
    return read_reach(load_bindings())


def check_peers(read: Callable[[], Reach], tp_size: int) -> list[Finding]:
    """Whether the GPUs of every block of `tp_size` reach each other; nothing without GPUs. Not a
    failure, as long as no server uses them."""
    try:
        reach = read()
    except AmoebaError:
        return []
    if len(reach) < 2:
        return []
    cut = cut_block(reach, tp_size)
    if cut is None:
        return [Finding("GPU memory", f"each block of {tp_size} of {len(reach)} GPUs is connected")]
    text = f"GPUs {cut[0]} and {cut[1]}, of one block of {tp_size}, do not reach each other"
    order = find_order(reach, tp_size, len(reach) // tp_size)
    if order is None:
        return [Finding("GPU memory", f"{text}, in no order of the GPUs")]
    devices = ",".join(map(str, order))
    return [Finding("GPU memory", f"{text}; CUDA_VISIBLE_DEVICES={devices} is an order that works")]


def check_limit(name: str, found: int, least: int, remedy: str, unit: int = 1) -> Finding:
    """`found` and `least` in units of `unit`, which is 1 or a MiB; an infinite limit is enough."""
    suffix = " MiB" if unit == MIB else ""
    if found == resource.RLIM_INFINITY:
        return Finding(name, "no limit")
    needed = f", {-(-least // unit):,}{suffix} needed" if least else ", none needed"
    text = f"{found // unit:,}{suffix}{needed}"
    return Finding(name, text, remedy if found < least else "")


def read_available(meminfo: str) -> int:
    """Bytes that the kernel could give to new processes, of the text of /proc/meminfo."""
    (line,) = (line for line in meminfo.splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def memory_needed(model: Path, workers: int) -> int:
    """Bytes for so many workers before any KV: each reads the whole model."""
    weights = sum(file.stat().st_size for kind in _WEIGHTS for file in model.glob(kind))
    return FRONTEND_BYTES + workers * (WORKER_BYTES + weights)


def check_model(model: Path) -> Finding:
    if not (model / "config.json").is_file():
        return Finding(
            "model",
            f"{model} has no config.json",
            "name the directory of a model with --model-path, or make the bundled one: make model",
        )
    try:
        load_model(str(model), 4, 4)
    except ConfigError as error:
        return Finding("model", str(model), f"choose another --model-path: {error}")
    if not any(any(model.glob(kind)) for kind in _WEIGHTS):
        kinds = ", ".join(_WEIGHTS)
        return Finding("model", f"{model} has no weights", f"put its {kinds} files there")
    return Finding("model", str(model))


def check_port(host: str, port: int) -> Finding:
    try:
        require_free(host, port)
    except ConfigError as error:
        return Finding("port", str(error), "choose another --port, or end the server that has it")
    return Finding("port", f"{host}:{port} is free")


if __name__ == "__main__":
    sys.exit(main())
