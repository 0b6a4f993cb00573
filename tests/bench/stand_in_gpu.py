"""A GPU for the checks: host memory behind the stand-in for the driver."""

import os
from dataclasses import dataclass
from typing import Any

from amoeba_sglang.planes.memory.base import Memory
from amoeba_sglang.planes.memory.cuda import CudaMemory
from amoeba_sglang.planes.reference.driver import ReferenceDriver, view_bytes


def open_files() -> int:
    """Memory files of drivers that this process has open."""
    found = 0
    for entry in os.scandir("/proc/self/fd"):
        try:
            found += "reference-driver" in os.readlink(entry.path)
        except FileNotFoundError:  # the descriptor of this listing
            continue
    return found


class Forgetful(CudaMemory):
    """Few pages that are mapped together come back in another order."""

    def map(self, where: Any, offset: int, pages: Any, populate: bool = False) -> None:
        super().map(where, offset, pages if len(pages) > 3 else list(pages)[::-1], populate)


@dataclass(frozen=True)
class StandInGpu:
    """`broken`: whether its memory does not do what it should."""

    broken: bool = False
    figures: bool = False

    def open(self) -> None:
        """Nothing: there is no context."""

    def memory(self, page_size: int) -> Memory:
        kind = Forgetful if self.broken else CudaMemory
        return kind(page_size, 0, ReferenceDriver(), view_bytes)

    def synchronize(self) -> None:
        """Nothing is ever launched."""

    def capture(self, launch: Any) -> Any:
        """Nothing is recorded: it is launched again."""
        return launch

    def describe(self) -> dict[str, Any]:
        return {"gpu": "stand-in", "gpus": 1}
