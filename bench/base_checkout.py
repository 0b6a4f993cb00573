"""Another commit of this repository, ready to serve on the packages that are installed here.

`.cache/ratio/COMMIT` is a git worktree. In its `.venv` lie `site`, a copy of the installed SGLang
with that commit's own patches on, and `bin/python`, which puts the worktree and `site` before the
packages of this interpreter. What is installed is only read.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.change import revert_series
from amoeba_sglang.patch.series import load_series
from amoeba_sglang.patch.state import require_patched
from amoeba_sglang.patch.target import find_target

HERE = Path(__file__).resolve().parents[1]
CACHE = Path(".cache/ratio")
_CODE = ("amoeba_sglang", "patches", "bench", "tests/serving")
_LAUNCHER = """#!/bin/sh
# Without safe paths `-m` would find the modules of the current directory first.
export PYTHONSAFEPATH=1 PYTHONPATH="{path}"
exec "{python}" "$@"
"""


@dataclass(frozen=True)
class BaseCheckout:
    """`commit`: full hash. `python`: the interpreter that runs its code."""

    commit: str
    python: Path


def git(*arguments: str, where: Path = HERE) -> str:
    """Standard output of git in the checkout `where`; ConfigError with git's reason if it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=where, capture_output=True, text=True)
    except FileNotFoundError:
        raise ConfigError("git is not on PATH; it makes the checkout to compare with") from None
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"git {arguments[0]}: {reason}")
    return done.stdout.rstrip("\n")


def find_commit(revision: str, where: Path = HERE) -> str:
    """The full hash of `revision`; ConfigError if there is no such commit."""
    git("rev-parse", "--git-dir", where=where)
    try:
        name = f"{revision}^{{commit}}"
        return git("rev-parse", "--verify", "--end-of-options", name, where=where)
    except ConfigError:
        raise ConfigError(
            f"BASE {revision}: no such commit in {where}; git log shows those that are there"
        ) from None


def require_committed(where: Path = HERE) -> None:
    """Refuse a checkout whose code no commit names: pairs are kept by commit."""
    changed = git("status", "--porcelain", "--", *_CODE, where=where)
    # The results of benches are no code, and this one writes some.
    files = [line[3:] for line in changed.splitlines()]
    files = [file for file in files if not file.startswith(("bench/results/", "bench/figures/"))]
    if files:
        raise ConfigError(f"{files[0]} differs from the commit that is checked out: commit it")


def make_base(commit: str, cache: Path = CACHE, where: Path = HERE) -> BaseCheckout:
    """Make what of `commit` is not there yet; ConfigError names the step that failed."""
    require_patched()
    worktree = cache.resolve() / commit[:12]
    if not (worktree / ".git").exists():
        shutil.rmtree(worktree, ignore_errors=True)
        # A worktree that somebody removed by hand is still registered, hence --force.
        add = ("worktree", "add", "--force", "--detach")
        git(*add, str(worktree), commit, where=where)
    if git("rev-parse", "HEAD", where=worktree) != commit:
        raise ConfigError(f"{worktree} is at another commit: git worktree remove {worktree}")
    require_committed(worktree)
    environment = worktree / ".venv"
    site = environment / "site"
    if not site.exists():
        _make_site(worktree, site)
    return BaseCheckout(commit, _write_launcher(environment, [worktree, site]))


def _make_site(worktree: Path, site: Path) -> None:
    """A run that is killed leaves only `site.partial`, which the next one replaces."""
    partial = site.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    copy_pristine(partial)
    register(worktree, partial)
    apply = [sys.executable, "-m", "amoeba_sglang.patch", "apply", "--target", str(partial)]
    done = subprocess.run(
        apply, cwd=worktree, env={**os.environ, "PYTHONPATH": str(worktree)},
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigError(f"patches of {worktree.name} on a pristine sglang: {reason}")
    partial.rename(site)


def register(worktree: Path, site: Path) -> None:
    """Give `site` the metadata of an installed package: SGLang finds our platform by them, and
    those of the environment name modules of the commit that is checked out."""
    project = tomllib.loads((worktree / "pyproject.toml").read_text())["project"]
    metadata = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = []
    for group, entries in project.get("entry-points", {}).items():
        lines += [f"[{group}]", *(f"{name} = {module}" for name, module in entries.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


def copy_pristine(copy: Path, site: Path | None = None) -> None:
    """Copy the sglang of `site`, by default the installed one, and take our patches off the copy.

    The metadata of the distribution come along: the patch tool reads the version from them.
    """
    root = find_target(site).root
    for found in (root / "sglang", *root.glob("sglang-*.dist-info")):
        shutil.copytree(
            found, copy / found.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    revert_series(load_series(), find_target(copy))


def _write_launcher(environment: Path, path: list[Path]) -> Path:
    """Always anew: the interpreter may have moved since."""
    python = environment / "bin" / "python"
    python.parent.mkdir(parents=True, exist_ok=True)
    python.write_text(_LAUNCHER.format(path=":".join(map(str, path)), python=sys.executable))
    python.chmod(0o755)
    return python
