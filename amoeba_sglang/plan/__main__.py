"""`python -m amoeba_sglang.plan`: what a model gains from Amoeba on a device, before buying it.

Arithmetic only: nothing is loaded, measured or downloaded. The defaults are an 80 GB device of
80 * 10^9 bytes, 90 % of it for weights and KV (the rest is for activations and the runtime, as with
SGLang's --mem-fraction-static 0.9) and 2 MiB pages, the granularity of CUDA's memory. They give
Qwen2.5-32B about 25K, 256K and 717K tokens at TP1, 2 and 4. Without whole pages, with every freed
byte used for KV, it would be 257K and 721K.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import NoReturn

from amoeba_sglang.config import MAX_GPU_PAGE_SIZE_KIB, MAX_PAGE_SIZE_KIB
from amoeba_sglang.control.layout.decoder import load_model
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.plan.device_memory import DeviceMemory
from amoeba_sglang.plan.report import GB, SMALLEST_PAGE, Report
from amoeba_sglang.plan.transform_plan import TransformPlan, parse_change

_DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4}
_KV_DTYPES = {"auto": None, "fp8_e4m3": 1, "fp8_e5m2": 1}
_LEAST_MEMORY_GB = 0.001
_LEAST = {
    "page_size": 1,
    "live_tokens": 0,
    "layers_per_step": 0,
    "staging_mib": 1,
    "communicators_mib": 0,
    "recorded_steps_mib": 0,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the plan. 0; 1 if the weights do not fit at degree 1; 2 for bad input, in one line."""
    parser = _make_parser()
    try:
        options = parser.parse_args(arguments)
        text, code = _plan(options)
    except (ConfigError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    print(text)
    return code


def _plan(options: argparse.Namespace) -> tuple[str, int]:
    """What to print, and the exit code."""
    _check_numbers(options)
    chain = DegreeChain.parse(options.degrees, "--degrees")
    dtype_bytes = _DTYPES[options.dtype]
    kv_dtype_bytes = _KV_DTYPES[options.kv_cache_dtype] or dtype_bytes
    model = load_model(options.model, dtype_bytes, kv_dtype_bytes)
    model.require_degree(chain.finest)
    pages = WeightPages(chain, options.page_size_kib << 10, model.mlp_layers)
    if options.transform is not None:
        change = parse_change(options.transform, chain)
        plan = TransformPlan.build(
            change,
            [options.live_tokens] * len(change[0]),
            replace(model.kv_shape, page=options.page_size),
            pages,
            staging_bytes=options.staging_mib << 20,
            layers_per_step=options.layers_per_step,
        )
        data = json.dumps(asdict(plan), indent=2, default=list)
        return data if options.json else plan.describe(), 0
    device_bytes = round(options.device_memory_gb * GB)
    memory = DeviceMemory(
        total=device_bytes,
        static=round(options.mem_fraction_static * device_bytes),
        communicators=options.communicators_mib << 20,
        recorded_steps=options.recorded_steps_mib << 20,
    )
    report = Report.build(model, pages, memory, options.page_size)
    data = json.dumps(report.data(), indent=2)
    return data if options.json else report.text(), 0 if report.capacity.fits else 1


def _check_numbers(options: argparse.Namespace) -> None:
    memory, fraction = options.device_memory_gb, options.mem_fraction_static
    page, smallest = options.page_size_kib, SMALLEST_PAGE >> 10
    if not (memory >= _LEAST_MEMORY_GB and math.isfinite(memory)):
        raise ConfigError(
            f"--device-memory-gb {memory:g}: must be a number from {_LEAST_MEMORY_GB} up"
        )
    if not 0 < fraction <= 1:
        raise ConfigError(f"--mem-fraction-static {fraction:g}: must be above 0 and at most 1")
    if not smallest <= page <= MAX_GPU_PAGE_SIZE_KIB or page & (page - 1):
        raise ConfigError(
            f"--page-size-kib {page}: must be a power of two from {smallest} "
            f"to {MAX_GPU_PAGE_SIZE_KIB}"
        )
    for name, least in _LEAST.items():
        if (count := getattr(options, name)) < least:
            raise ConfigError(f"--{name.replace('_', '-')} {count}: must be at least {least}")


def _make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m amoeba_sglang.plan",
        allow_abbrev=False,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model",
        required=True,
        metavar="CONFIG",
        help="a Hugging Face config.json, a directory that holds one, or a known name such as "
        "Qwen2.5-32B",
    )
    parser.add_argument(
        "--page-size-kib",
        type=int,
        default=MAX_PAGE_SIZE_KIB,
        metavar="KIB",
        help="page of weights and KV, a power of two from 4 to 32768 (default: 2048)",
    )
    parser.add_argument(
        "--page-size",
        type=int,
        default=1,
        metavar="P",
        help="tokens of a KV page, as in SGLang; capacities are whole pages of them (default: 1)",
    )
    parser.add_argument(
        "--degrees",
        default="1,2,4",
        metavar="1,2,4",
        help="allowed degrees, a divisor chain from 1 (default: 1,2,4)",
    )
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="bfloat16", help="of weights (default: bfloat16)"
    )
    parser.add_argument(
        "--kv-cache-dtype",
        choices=_KV_DTYPES,
        default="auto",
        help="of KV (default: auto, that of the weights; the server has no other yet)",
    )
    parser.add_argument("--json", action="store_true", help="print data instead of tables")
    _add_device(parser.add_argument_group("the device"))
    _add_dry_run(parser.add_argument_group("dry run of one transformation, instead of the tables"))
    return parser


def _add_device(device: argparse._ArgumentGroup) -> None:
    device.add_argument(
        "--device-memory-gb",
        type=float,
        default=80,
        metavar="GB",
        help="memory of one device in units of 10^9 bytes (default: 80)",
    )
    device.add_argument(
        "--mem-fraction-static",
        type=float,
        default=0.9,
        metavar="F",
        help="part of it for weights and KV, as in SGLang (default: 0.9)",
    )
    device.add_argument(
        "--communicators-mib",
        type=int,
        default=0,
        metavar="MIB",
        help="memory of a worker that the communicators of a degree above 1 take, of what is for "
        "weights and KV; a server on GPUs says it when it starts (default: 0)",
    )
    device.add_argument(
        "--recorded-steps-mib",
        type=int,
        default=0,
        metavar="MIB",
        help="memory of a worker that the recorded steps of a degree take, of the rest; likewise "
        "(default: 0)",
    )


def _add_dry_run(dry_run: argparse._ArgumentGroup) -> None:
    dry_run.add_argument(
        "--transform",
        metavar="1,1:2,2",
        help="degrees of the workers of one block before and after",
    )
    dry_run.add_argument(
        "--live-tokens", type=int, default=4096, metavar="N", help="of each worker (default: 4096)"
    )
    dry_run.add_argument(
        "--layers-per-step", type=int, default=0, metavar="K", help="0: all at once (default: 0)"
    )
    dry_run.add_argument(
        "--staging-mib", type=int, default=8, metavar="MIB", help="of a worker (default: 8)"
    )


if __name__ == "__main__":
    sys.exit(main())
