"""A small upstream, steps that its patches take, and what a target should hold after each."""

import subprocess
from pathlib import Path

from amoeba_sglang.patch.series import UPSTREAM_VERSION

LINES = [f"line {number}\n" for number in range(40)]
PRISTINE = {
    "sglang/__init__.py": "",
    "sglang/srt/a.py": "".join(LINES),
    "sglang/srt/b.py": "".join(LINES),
    "sglang/srt/old.py": "gone = True\n",
    "sglang/srt/bystander.py": "untouched = True\n",
}


def _edit(text: str, number: int, new: str) -> str:
    return text.replace(f"line {number}\n", f"{new}\n")


STEPS = [
    {"sglang/srt/a.py": _edit(PRISTINE["sglang/srt/a.py"], 10, "seam one")},
    {
        "sglang/srt/a.py": _edit(
            _edit(PRISTINE["sglang/srt/a.py"], 10, "seam one\nseam two"), 11, "x"
        ),
        "sglang/srt/b.py": _edit(PRISTINE["sglang/srt/b.py"], 20, "seam three"),
    },
    {"sglang/srt/new.py": "new = True\n", "sglang/srt/old.py": None},
]


def git(directory: Path, *arguments: str | Path) -> str:
    """Run git as a user would in a checkout."""
    user = ["-c", "user.name=T", "-c", "user.email=t@example.com"]
    command = ["git", *user, *arguments]
    return subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout


def write_tree(root: Path, files: dict[str, str | None]) -> None:
    """Write files below `root`; None removes one."""
    for path, text in files.items():
        file = root / path
        if text is None:
            file.unlink()
            continue
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def read_tree(root: Path) -> dict[str, str]:
    """Every file of the package below `root`, also the ones that should not be there."""
    files = (file for file in (root / "sglang").rglob("*") if file.is_file())
    return {str(file.relative_to(root)): file.read_text() for file in files}


def expect(level: int) -> dict[str, str]:
    """The whole tree after the first `level` patches."""
    tree = dict(PRISTINE) | {p: t for step in STEPS[:level] for p, t in step.items()}
    return {path: text for path, text in tree.items() if text is not None}


def write_distribution(root: Path, version: str = UPSTREAM_VERSION) -> None:
    """The dist-info of the package below `root`, as an installer leaves it."""
    (root / f"sglang-{version}.dist-info").mkdir()


def fingerprint(root: Path) -> dict[Path, tuple[int, int]]:
    """Inode and time of change of all below `root`: equal only if nothing was written."""
    return {f: (f.stat().st_ino, f.stat().st_mtime_ns) for f in root.rglob("*")}
