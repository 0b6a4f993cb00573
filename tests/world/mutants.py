"""Faults that can be put into a copy of the package, to see whether the world finds them.

make world-mutants            plays until each is found, or its time is over
make world MUTANT=name ...    plays with one of them
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PACKAGE = "amoeba_sglang"


@dataclass(frozen=True)
class Mutant:
    """`old`, once in `file` of the package, becomes `new`. `profile`, `workers`: where to look."""

    about: str
    file: str
    old: str
    new: str
    profile: str = "busy"
    workers: int = 2

    def apply(self, package: Path) -> None:
        path = package / self.file
        text = path.read_text()
        assert text.count(self.old) == 1, f"{self.file} has {text.count(self.old)} of: {self.old}"
        path.write_text(text.replace(self.old, self.new))


MUTANTS: dict[str, Mutant] = {}


def use(name: str) -> None:
    """Let this process import a copy of the package that has the fault; before it imports any."""
    assert not any(module.split(".")[0] == _PACKAGE for module in sys.modules)
    folder = Path(tempfile.mkdtemp(prefix="amoeba-mutant-"))
    shutil.copytree(_ROOT / _PACKAGE, folder / _PACKAGE)
    MUTANTS[name].apply(folder / _PACKAGE)
    sys.path.insert(0, str(folder))
