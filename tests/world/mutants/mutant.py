"""What a mutant is, and how a process comes to import it."""

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGE = "amoeba_sglang"


@dataclass(frozen=True)
class Mutant:
    """`changes`: (file of the package, text that is in it once, what it becomes). `profile`,
    `workers`: where it is looked for."""

    about: str
    changes: tuple[tuple[str, str, str], ...]
    profile: str = "busy"
    workers: int = 2

    def apply(self, package: Path) -> None:
        for name, old, new in self.changes:
            text = (package / name).read_text()
            assert text.count(old) == 1, f"{name} has {text.count(old)} of: {old}"
            (package / name).write_text(text.replace(old, new))

    def use(self) -> None:
        """Let this process import a copy of the package that has the fault. What upstream has
        imported of the package by itself is imported again."""
        for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
            del sys.modules[name]
        folder = Path(tempfile.mkdtemp(prefix="amoeba-mutant-"))
        shutil.copytree(ROOT / PACKAGE, folder / PACKAGE)
        self.apply(folder / PACKAGE)
        sys.path.insert(0, str(folder))


def one(
    about: str, file: str, old: str, new: str, profile: str = "busy", workers: int = 2
) -> Mutant:
    return Mutant(about, ((file, old, new),), profile, workers)
