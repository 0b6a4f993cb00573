"""What state a target is in: which patches its files carry, read from the files themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.git import Contents, transform
from amoeba_sglang.patch.series import Patch, Series, load_series
from amoeba_sglang.patch.target import Target, find_target

APPLY_COMMAND = "python -m amoeba_sglang.patch apply"


@dataclass(frozen=True)
class FileState:
    """One touched file: as found, as upstream ships it, and with the whole series.

    `level` is how many of the patches that touch it are on it; None, with `pristine` and `patched`
    meaningless, if the content is none that the series can produce. `problem` then says why.
    """

    path: str
    level: int | None
    found: bytes | None
    pristine: bytes | None = None
    patched: bytes | None = None
    problem: str = ""


@dataclass(frozen=True)
class PatchState:
    """The state of every touched file of `target`, with regard to `series`."""

    series: Series
    target: Target
    files: tuple[FileState, ...]

    @property
    def overall(self) -> str:
        """`unpatched`, `patched`, `partial` (a mix of known files) or `modified` (unknown)."""
        if self.problem:
            return "modified"
        states = {self.of_patch(patch) for patch in self.series.patches}
        if states == {"applied"}:
            return "patched"
        return "unpatched" if states == {"not applied"} else "partial"

    @property
    def problem(self) -> str:
        """Why the first modified file is none of ours, empty if there is no such file."""
        return next((file.problem for file in self.files if file.level is None), "")

    def of_patch(self, patch: Patch) -> str:
        """`applied`, `not applied`, `half applied` (on some of its files) or `conflicting`."""
        levels = {file.path: file.level for file in self.files if file.path in patch.files}
        if None in levels.values():
            return "conflicting"
        on = {self.series.patches_of(path).index(patch) < level for path, level in levels.items()}
        if len(on) == 2:
            return "half applied"
        return "applied" if on.pop() else "not applied"


def read_state(series: Series, target: Target) -> PatchState:
    """Find out which of its known contents every touched file of `target` has; changes nothing."""
    found = {path: target.read(path) for path in series.files}
    # One look at all files serves the usual cases. Without a RECORD a fit at level 0 proves little.
    for level in (len(series.patches), 0) if target.record else (len(series.patches),):
        fit = _fit(target, found, series.patches, level)
        if fit is None:
            continue
        levels = {path: len(series.patches_of(path)) if level else 0 for path in found}
        files = [FileState(p, levels[p], found[p], fit[0][p], fit[1][p]) for p in found]
        return PatchState(series, target, tuple(files))
    return PatchState(series, target, tuple(_read_file(series, target, *x) for x in found.items()))


def installed_state() -> PatchState:
    """The state of the sglang that this interpreter would import, without importing it.

    Raises ConfigError if there is none, or of another version, or no patches or no git.
    """
    return read_state(load_series(), find_target())


def require_patched() -> None:
    """Raise ConfigError, naming the command that mends it, if installed sglang is not patched."""
    state = installed_state()
    if state.problem:
        raise ConfigError(f"{state.problem}; {state.target.remedy}, then run: {APPLY_COMMAND}")
    if state.overall != "patched":
        raise ConfigError(f"sglang in {state.target.root} is {state.overall}; run: {APPLY_COMMAND}")


def _read_file(series: Series, target: Target, path: str, content: bytes | None) -> FileState:
    patches = series.patches_of(path)
    fit = _find_level(target, path, content, patches)
    if fit is None:
        problem = _explain(target, path, content, patches)
        return FileState(path, None, content, problem=problem)
    level, pristine, patched = fit
    return FileState(path, level, content, pristine, patched)


def _find_level(
    target: Target, path: str, content: bytes | None, patches: Sequence[Patch]
) -> tuple[int, bytes | None, bytes | None] | None:
    """How many of `patches` are on, and the pristine and patched contents; None if none of that."""
    # From the top: reversing demands the added lines, while a forward hunk may fit twice.
    for level in range(len(patches), -1, -1):
        fit = _fit(target, {path: content}, patches, level)
        if fit is not None:
            return level, fit[0][path], fit[1][path]
    return None


def _fit(
    target: Target, found: Contents, patches: Sequence[Patch], level: int
) -> tuple[Contents, Contents] | None:
    """The pristine and patched contents if exactly the first `level` patches are on, else None."""
    on, off = [p.path for p in patches[:level]], [p.path for p in patches[level:]]
    pristine = transform(found, on, reverse=True)
    if pristine is None or not all(target.is_pristine(*item) for item in pristine.items()):
        return None
    # git lets hunks move: only what comes back the same was made by these patches.
    if transform(pristine, on) != found:
        return None
    patched = transform(found, off)
    return None if patched is None else (pristine, patched)


def _explain(target: Target, path: str, content: bytes | None, patches: Sequence[Patch]) -> str:
    file = target.locate(path)
    if content is None:
        return f"{file} is missing"
    if _find_level(replace(target, record=None), path, content, patches) is not None:
        return f"{file} is locally modified: outside the patches it differs from the wheel's"
    for patch in patches:
        if all(
            transform({path: content}, [patch.path], reverse=reverse) is None
            for reverse in (False, True)
        ):
            name = patch.path.name
            return f"{file} is locally modified: {name} neither applies to it nor is applied"
    return f"{file} is locally modified: the patches do not fit it together"
