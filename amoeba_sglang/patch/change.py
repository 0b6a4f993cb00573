"""Putting the series on a target and taking it off."""

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.git import run_git
from amoeba_sglang.patch.series import Series, hash_content
from amoeba_sglang.patch.state import read_state
from amoeba_sglang.patch.target import Target

_STAGED_PREFIX = ".amoeba-patch-"


def apply_series(series: Series, target: Target) -> int:
    """Bring every touched file to its patched content; return how many files changed.

    Raises ConfigError, with nothing changed, if that is done already or a file is modified or
    unwritable.
    """
    return _bring(series, target, patched=True)


def revert_series(series: Series, target: Target) -> int:
    """Bring every touched file back to its pristine content, as `apply_series` does forwards."""
    return _bring(series, target, patched=False)


def transform(
    contents: Mapping[str, bytes | None], patches: Sequence[Path], *, reverse: bool = False
) -> dict[str, bytes | None] | None:
    """The files `contents` (path in the upstream repository -> content) once `patches` are on, or
    with `reverse` off; None if they do not fit."""
    with tempfile.TemporaryDirectory(prefix="amoeba-patch-") as name:
        tree = Path(name)
        for path, content in contents.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            if content is not None:
                (tree / path).write_bytes(content)
        options = ["--whitespace=nowarn", *(f"--include={path}" for path in contents)]
        ordered = ["--reverse", *reversed(patches)] if reverse else patches
        if run_git(["apply", *options, *ordered], tree).returncode != 0:
            return None
        files = {path: tree / path for path in contents}
        return {p: file.read_bytes() if file.exists() else None for p, file in files.items()}


def _bring(series: Series, target: Target, *, patched: bool) -> int:
    with _locked(target):
        for directory in {target.locate(path).parent for path in series.hashes}:
            for stray in directory.glob(f"{_STAGED_PREFIX}*"):
                stray.unlink()  # of a run that was killed
        state = read_state(series, target)
        if state.overall == ("patched" if patched else "unpatched"):
            already = "already patched" if patched else "not patched"
            raise ConfigError(f"sglang in {target.root} is {already}; nothing was changed")
        if state.problems:
            raise ConfigError(f"{state.problems[0]}; nothing was changed; {target.remedy}")
        wrong = {path: target.read(path) for path, on in state.applied.items() if on != patched}
        contents = transform(wrong, series.paths, reverse=not patched)
        wanted = {path: series.hashes[path][patched] for path in wrong}
        if contents is None or {p: hash_content(c) for p, c in contents.items()} != wanted:
            raise ConfigError(
                f"the patches in {series.directory} are not those of its manifest; nothing was "
                "changed"
            )
        _replace({target.locate(path): content for path, content in contents.items()})
        return len(contents)


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


def _replace(contents: Mapping[Path, bytes | None]) -> None:
    """Give every file its content, once all are written beside; None removes it."""
    staged: dict[Path, Path] = {}
    done = 0
    try:
        for file, content in contents.items():
            if content is not None:
                staged[file] = _stage(file, content)
        for file in contents:
            if file in staged:
                os.replace(staged[file], file)
            else:
                file.unlink()
            done += 1
    except OSError as error:
        left = "some files are changed: mend that, then apply or revert again"
        raise ConfigError(
            f"cannot write {file}: {error.strerror}; {left if done else 'nothing was changed'}"
        ) from None
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)


def _stage(file: Path, content: bytes) -> Path:
    """Write `content` to a new file beside `file`, with its mode and a later time.

    Never in place: installers hard-link files between environments and into their caches.
    """
    descriptor, name = tempfile.mkstemp(prefix=_STAGED_PREFIX, dir=file.parent)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        # A stale .pyc is told by size and whole seconds, and two changes may share a second.
        status = file.stat() if file.exists() else None
        os.chmod(name, status.st_mode & 0o7777 if status else 0o644)
        seconds = max(time.time(), status.st_mtime + 1 if status else 0)
        os.utime(name, (seconds, seconds))
    except OSError:
        os.unlink(name)
        raise
    return Path(name)
