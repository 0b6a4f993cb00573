"""What the log of an audited server says happened: transformations and rare events."""

import ast
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

EVENTS = ("prefill", "decode", "arrived", "finished", "aborted", "retracted")
_RECORD = re.compile(r"transformation (\{.*\})$", re.M)
_STEP = re.compile(r"joint step (\{.*\})$", re.M)
_SLOTS = re.compile(r"slots change hands (\{.*\})$", re.M)
_RETRACTED = re.compile(r"#retracted_reqs: (\d+)")
_LENT = re.compile(r"KV slots are lent: retracted \[(.*?)\]")
_DIGEST = re.compile(r"DP(\d+)\b.*digest (\w+): (\d+) slots kv (\w+) weights (\w+)$", re.M)
_REASONS = {
    "stranded: a request needs the present layout": "tokens of KV memory",
    "no refuge for the tokens of long requests": "on slots that the change takes away",
    "a vote was late": "no vote from ranks",
    "another operation runs": "is running",
}


class ServerLog:
    """Reads on from where it was. `events` counts; `records`: all that ended; `steps`: (kind, b) ->
    what happened to requests then; `digests`: by rank (when, slots, KV, weights), in order."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self.events: Counter[str] = Counter()
        self.records: list[dict[str, Any]] = []
        self.steps: dict[tuple[str, int], Counter[str]] = {}
        self.digests: dict[int, list[tuple[str, int, str, str]]] = {}

    def follow(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        self.add(whole.decode(errors="replace"))

    def add(self, text: str) -> None:
        for found in _RECORD.findall(text):
            self._add_record(ast.literal_eval(found))
        for found in _STEP.findall(text):
            step = json.loads(found)
            kind = "merge" if sum(step["after"]) > sum(step["before"]) else "split"
            counts = self.steps.setdefault((kind, step["b"]), Counter())
            counts.update({name: step[name] for name in EVENTS})
        for found in _SLOTS.findall(text):
            for name, count in json.loads(found).items():
                if count:
                    self.events[f"slots {name}: times"] += 1
                    self.events[f"slots {name}"] += count
        for found in _RETRACTED.findall(text):
            self.events["retractions"] += 1
            self.events["requests retracted"] += int(found)
        self.events["retractions since slots are lent"] += len(_LENT.findall(text))
        for rank, when, slots, kv, weights in _DIGEST.findall(text):
            self.digests.setdefault(int(rank), []).append((when, int(slots), kv, weights))

    def _add_record(self, record: dict[str, Any]) -> None:
        self.records.append(record)
        outcome = record["outcome"]
        name = f"{record['kind']} {outcome}"
        self.events[name] += 1
        if outcome == "done":
            width = len(record["ranks"])
            self.events[f"{record['kind']} of {width} workers to degree {record['degree']}"] += 1
        else:
            reasons = [why for why, words in _REASONS.items() if words in record["error"]]
            self.events[f"refused: {(reasons or [record['error'][:80]])[0]}"] += 1

    @property
    def transformations(self) -> int:
        return sum(record["outcome"] == "done" for record in self.records)

    def table(self) -> dict[str, dict[str, list[int]]]:
        """Of merges and splits: event -> how often it happened at b = 0, 1, .., L."""
        layers = max((b for _, b in self.steps), default=0)
        return {
            kind: {
                event: [self.steps.get((kind, b), Counter())[event] for b in range(layers + 1)]
                for event in EVENTS
            }
            for kind in ("merge", "split")
        }

    def digests_taken(self) -> dict[int, int]:
        """How many there are, by rank; a point in time for `changes_since`."""
        return {rank: len(found) for rank, found in self.digests.items()}

    def changes_since(self, taken: dict[int, int]) -> list[str]:
        """Workers whose KV or weights were not the same in all digests since then, or had none."""
        kept = {
            rank: {one[1:] for one in found[taken.get(rank, 0) :]}
            for rank, found in self.digests.items()
        }
        return [
            f"rank {rank}: content after a merge and a split: {content}"
            for rank, content in kept.items()
            if len(content) != 1
        ]

    def content_problems(self) -> list[str]:
        """Weights that differ from those of the first digest of their worker."""
        return [
            f"rank {rank}: {len(weights)} different weights at degree 1"
            for rank, found in self.digests.items()
            if len(weights := {one[3] for one in found}) > 1
        ]
