"""A table of docs/results.md, and how it stands between marks."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from bench.results_file import Result

_MARKED = re.compile(r"(<!-- table (\S+) -->\n)(.*?)(<!-- end \2 -->)", re.DOTALL)


@dataclass(frozen=True)
class Table:
    """`noise`: how often it was measured and how far apart, in one line. `labels`: how many columns
    say what was measured and not what came out. `chart`: of docs/figures."""

    name: str
    question: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    noise: str
    sources: tuple[Result, ...]
    labels: int = 1
    chart: str = ""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"{self.name}: a row is not as wide as the head")

    @property
    def footnote(self) -> str:
        """One line: how often and how noisy, on what, and at which commits."""
        files = defaultdict(list)
        for source in self.sources:
            files[", ".join(commit[:7] for commit in source.commits)].append(source.name)
        hosts = {f"{one.cores} cores of an {_short(one.cpu)}": None for one in self.sources}
        commits = "; ".join(
            f"at {commit} " + ", ".join(f"[{name}](../bench/results/{name}.json)" for name in names)
            for commit, names in files.items()
        )
        return f"{self.noise} {' and '.join(hosts)}; {commits}."

    def render(self) -> str:
        lines = [self.columns, ("---",) * len(self.columns), *self.rows]
        parts = [
            f"**{self.question}**",
            "\n".join("| " + " | ".join(line) + " |" for line in lines),
            f"*{self.footnote}*",
        ]
        if self.chart:
            parts.append(f"![{self.question}](figures/{self.chart})")
        return "\n\n".join(parts)


def fill(text: str, tables: dict[str, Table]) -> tuple[str, list[str]]:
    """Text with what stands between marks made anew, and the names of those tables that changed."""
    changed = []

    def make(found: re.Match[str]) -> str:
        start, name, old, end = found.groups()
        new = f"\n{tables[name].render()}\n\n"
        if new != old:
            changed.append(name)
        return f"{start}{new}{end}"

    return _MARKED.sub(make, text), changed


def strip(text: str) -> str:
    """What stands outside of the marks."""
    return _MARKED.sub("", text)


def marked(text: str) -> list[str]:
    """Names of the tables that a text has marks for."""
    return [found[2] for found in _MARKED.finditer(text)]


def _short(cpu: str) -> str:
    return re.sub(r"\(R\)| Processor", "", cpu)
