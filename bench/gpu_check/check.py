"""python -m bench.gpu_check.check NAME: runs one check on GPU 0 and prints a line of JSON."""

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from bench.gpu_check.device import Device, Gpu

CHECKS = {
    name: f"bench.gpu_check.{name}" for name in ("driver", "movers", "joint", "one_gpu", "elastic")
}


def run(name: str, device: Device, **options: Any) -> dict[str, Any]:
    """What the check found, or what went wrong in it."""
    started = time.perf_counter()
    line: dict[str, Any] = {"check": name, "ok": False}
    try:
        device.open()
        line["on"] = device.describe()
        check: Callable[..., dict[str, Any]] = import_module(CHECKS[name]).check
        line |= {"ok": True, **check(device, **options)}
    except Exception as error:
        line |= {"ok": False, "problem": f"{type(error).__name__}: {error}"}
    return {**line, "seconds": round(time.perf_counter() - started, 1)}


if __name__ == "__main__":
    result = run(sys.argv[1], Gpu())
    print(json.dumps(result), flush=True)
    sys.exit(0 if result["ok"] else 1)
