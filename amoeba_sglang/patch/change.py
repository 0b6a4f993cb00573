"""Putting the series on a target and taking it off, all or nothing."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.series import Series
from amoeba_sglang.patch.state import PatchState, read_state
from amoeba_sglang.patch.target import Target

_STAGED_PREFIX = ".amoeba-patch-"


def apply_series(series: Series, target: Target) -> int:
    """Bring every touched file to its patched content; return how many files changed.

    Raises ConfigError, with nothing changed, if that is done already or a file is modified or
    unwritable.
    """
    with _locked(target):
        _sweep(series, target)
        state = read_state(series, target)
        if state.overall == "patched":
            raise ConfigError(f"sglang in {target.root} is already patched; nothing was changed")
        _refuse_modified(state)
        return _replace(target, {f.path: (f.found, f.patched) for f in state.files})


def revert_series(series: Series, target: Target) -> int:
    """Bring every touched file back to its pristine content; return how many files changed.

    Raises ConfigError, with nothing changed, if nothing is applied or a file is modified or
    unwritable.
    """
    with _locked(target):
        _sweep(series, target)
        state = read_state(series, target)
        if state.overall == "unpatched":
            raise ConfigError(f"sglang in {target.root} is not patched; nothing was changed")
        _refuse_modified(state)
        return _replace(target, {f.path: (f.found, f.pristine) for f in state.files})


def _refuse_modified(state: PatchState) -> None:
    if state.problem:
        raise ConfigError(f"{state.problem}; nothing was changed; {state.target.remedy}")


@contextmanager
def _locked(target: Target) -> Iterator[None]:
    """Keep other runs of this tool off the target; the lock goes with the process that holds it."""
    descriptor = os.open(target.root / "sglang", os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigError(f"another run of this tool is changing {target.root}/sglang") from None
    finally:
        os.close(descriptor)


def _sweep(series: Series, target: Target) -> None:
    """Remove what a run that was killed had staged."""
    for path in series.files:
        strays = list(target.locate(path).parent.glob(f"{_STAGED_PREFIX}*"))
        for stray in strays:
            stray.unlink()
        if strays:
            _prune(target, path)


def _replace(target: Target, changes: Mapping[str, tuple[bytes | None, bytes | None]]) -> int:
    """Take every path from its first content to its second; None is no file.

    An OSError undoes all and becomes a ConfigError. Returns how many files changed.
    """
    changes = {path: change for path, change in changes.items() if change[0] != change[1]}
    staged: dict[str, Path | None] = {}
    done: list[str] = []
    try:
        for path, (_, after) in changes.items():
            staged[path] = _stage(target.locate(path), after)
        for path in changes:
            _commit(staged[path], target, path)
            done.append(path)
    except OSError as error:
        file = target.locate(path)
        _undo(target, {path: changes[path][0] for path in done}, error)
        raise ConfigError(f"cannot write {file}: {error.strerror}; nothing was changed") from None
    finally:
        for path in changes.keys() - done:
            if staged.get(path) is not None:
                staged[path].unlink(missing_ok=True)
            _prune(target, path)
    return len(done)


def _undo(target: Target, before: Mapping[str, bytes | None], cause: OSError) -> None:
    try:
        for path, content in before.items():
            _commit(_stage(target.locate(path), content), target, path)
    except OSError as error:
        raise ConfigError(
            f"cannot write ({cause.strerror}), nor undo what was done ({error.strerror}): sglang "
            f"in {target.root} is left partial; mend the cause, then apply or revert again"
        ) from None


def _stage(file: Path, content: bytes | None) -> Path | None:
    """Write `content` to a new file beside `file`, with its mode and a later time.

    Never in place: installers hard-link files between environments and into their caches.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        return None
    descriptor, name = tempfile.mkstemp(prefix=_STAGED_PREFIX, dir=file.parent)
    staged = Path(name)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # A stale .pyc is told by size and whole seconds, and two changes may share a second.
        seconds = time.time()
        staged.chmod(0o644)
        with suppress(FileNotFoundError):
            status = file.stat()
            staged.chmod(status.st_mode & 0o7777)
            seconds = max(seconds, status.st_mtime + 1)
        os.utime(staged, (seconds, seconds))
    except OSError:
        staged.unlink()
        raise
    return staged


def _commit(staged: Path | None, target: Target, path: str) -> None:
    file = target.locate(path)
    if staged is not None:
        os.replace(staged, file)
        return
    file.unlink()
    _prune(target, path)


def _prune(target: Target, path: str) -> None:
    """Remove directories of `path` that are empty: they would be importable, as namespaces."""
    for parent in target.locate(path).parents:
        if parent == target.root / "sglang" or (parent.is_dir() and any(parent.iterdir())):
            break
        with suppress(FileNotFoundError):
            parent.rmdir()
