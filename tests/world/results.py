"""Outcomes of many histories, summed up and kept over days."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.world.runner import Outcome

_ROOT = Path(__file__).parents[2]


def package_hash() -> str:
    """Of all that a history depends on: the package, its patches, and the world itself."""
    found = hashlib.sha256()
    for folder, pattern in (
        ("amoeba_sglang", "*.py"),
        ("patches", "*.patch"),
        ("tests/world", "*.py"),
    ):
        for path in sorted((_ROOT / folder).rglob(pattern)):
            found.update(f"{path.relative_to(_ROOT)}\n".encode() + path.read_bytes())
    return found.hexdigest()[:16]


class Results:
    """`file`: lines of JSON to go on from and to add to, or None. Only runs of the same package and
    world count. `outcomes`: by number of workers and seed."""

    def __init__(self, file: Path | None, mutant: str = "") -> None:
        self.mutant = mutant
        self._file, self._key = file, [package_hash(), mutant]
        self.outcomes: dict[tuple[int, str], Outcome] = {}
        if file is not None and file.exists():
            for line in file.read_text().splitlines():
                key, fields = json.loads(line)
                if key == self._key:
                    self._take(Outcome(**fields))

    def _take(self, outcome: Outcome) -> None:
        self.outcomes[outcome.workers, outcome.seed] = outcome

    def has(self, workers: int, seed: str) -> bool:
        return (workers, seed) in self.outcomes

    def add(self, outcome: Outcome) -> None:
        self._take(outcome)
        if self._file is not None and not outcome.broken:
            fields = {**asdict(outcome), "trace": [], "text": ""}
            with self._file.open("a") as file:
                file.write(json.dumps([self._key, fields]) + "\n")

    @property
    def violations(self) -> list[Outcome]:
        return [one for one in self.outcomes.values() if one.kind and not one.broken]

    @property
    def broken(self) -> list[Outcome]:
        return [one for one in self.outcomes.values() if one.broken]

    @property
    def exit_code(self) -> int:
        return 2 if self.broken else 1 if self.violations else 0

    @property
    def cpu(self) -> float:
        """Seconds of the processor for all of them."""
        return sum(outcome.cpu for outcome in self.outcomes.values())

    def summary(self) -> dict[str, Any]:
        """The last line of a run."""
        outcomes = self.outcomes.values()
        by_workers = {
            str(workers): _figures(one for one in outcomes if one.workers == workers)
            for workers in sorted({workers for workers, _ in self.outcomes})
        }
        return {
            **_figures(outcomes),
            "violations": len(self.violations),
            "broken": len(self.broken),
            "kinds": dict(Counter(one.kind for one in self.violations)),
            "workers": by_workers,
            "rare": dict(sorted(_counts(outcomes).items())),
        }


def _counts(outcomes: Iterable[Outcome]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for outcome in outcomes:
        counts.update(outcome.counts)
    return counts


def _figures(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    found = list(outcomes)
    counts, cpu = _counts(found), sum(outcome.cpu for outcome in found)
    steps, transformations = counts["engine steps"], counts["merges done"] + counts["splits done"]
    return {
        "seeds": len(found),
        "steps": steps,
        "transformations": transformations,
        "requests": counts["Ask"],
        "cpu_seconds": round(cpu, 1),
        "steps_per_cpu_second": round(steps / cpu, 1) if cpu else 0,
        "transformations_per_cpu_second": round(transformations / cpu, 2) if cpu else 0,
    }
