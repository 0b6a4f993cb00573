"""What state a target is in: two hash compares a file."""

from collections.abc import Mapping
from dataclasses import dataclass

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.series import UPSTREAM_VERSION, Patch, Series, hash_content, load_series
from amoeba_sglang.patch.target import Target, find_target

APPLY_COMMAND = "python -m amoeba_sglang.patch apply"


@dataclass(frozen=True)
class PatchState:
    """`applied`: of every touched file of `target` whether the series is on it, None if its content
    is neither upstream's nor what the series makes of it."""

    series: Series
    target: Target
    applied: Mapping[str, bool | None]

    @property
    def overall(self) -> str:
        """`unpatched`, `patched`, `partial` (a mix of both) or `modified` (unknown content)."""
        states = set(self.applied.values())
        if None in states:
            return "modified"
        return "partial" if len(states) > 1 else "patched" if states.pop() else "unpatched"

    @property
    def problems(self) -> list[str]:
        """A line for every modified file, with the reason."""
        return [self._explain(path) for path, state in self.applied.items() if state is None]

    def of_patch(self, patch: Patch) -> str:
        """`applied`, `not applied`, `half applied` (on some of its files) or `conflicting`."""
        states = {self.applied[path] for path in patch.files}
        if None in states:
            return "conflicting"
        if len(states) == 2:
            return "half applied"
        return "applied" if states.pop() else "not applied"

    def _explain(self, path: str) -> str:
        file = self.target.locate(path)
        if not file.exists():
            return f"{file} is missing"
        return (
            f"{file} is locally modified: it is neither sglang {UPSTREAM_VERSION}'s nor what the "
            "patches make of that"
        )


def read_state(series: Series, target: Target) -> PatchState:
    """Look at every touched file of `target`; changes nothing."""

    def look(path: str, ends: tuple[str | None, str | None]) -> bool | None:
        found = hash_content(target.read(path))
        return bool(ends.index(found)) if found in ends else None

    return PatchState(series, target, {path: look(path, e) for path, e in series.hashes.items()})


def installed_state() -> PatchState:
    """The state of the sglang that this interpreter would import, without importing it.

    Raises ConfigError if there is none, or of another version, or no patches.
    """
    return read_state(load_series(), find_target())


def require_patched() -> None:
    """Raise ConfigError, naming the command that mends it, if installed sglang is not patched."""
    state = installed_state()
    if state.problems:
        raise ConfigError(f"{state.problems[0]}; {state.target.remedy}, then run: {APPLY_COMMAND}")
    if state.overall != "patched":
        raise ConfigError(f"sglang in {state.target.root} is {state.overall}; run: {APPLY_COMMAND}")
