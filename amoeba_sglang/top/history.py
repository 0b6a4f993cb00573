"""What has been heard of a server since its last view."""

from collections import deque
from dataclasses import dataclass, field
from typing import Any

# Two minutes of frames.
SAMPLES = 240
_LINES = 100


@dataclass(frozen=True)
class Line:
    """Of the log: when, by the router's clock, what and why; `failed` if it did not work."""

    at: float
    text: str
    reason: str
    failed: bool = False


@dataclass
class History:
    """`degrees`: by sample, of every rank, negative while its layers move. `rates`: tokens a second
    by sample. `frame`: the last one, or the view."""

    server: dict[str, Any]
    about: dict[str, Any]
    frame: dict[str, Any]
    degrees: deque[list[int]] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    log: deque[Line] = field(default_factory=lambda: deque(maxlen=_LINES))
    trouble: str = ""
    _seen: float = float("-inf")

    @classmethod
    def of_view(cls, view: dict[str, Any]) -> "History":
        made = cls(view["server"], view["about"], view)
        made._add(view)
        return made

    @property
    def instances(self) -> list[list[int]]:
        """Their ranks."""
        found, first = [], 0
        for degree in self.frame["instances"]["degree"]:
            found.append(list(range(first, first + degree)))
            first += degree
        return found

    def take(self, name: str, data: dict[str, Any]) -> None:
        """An event after the view."""
        if name == "frame":
            self.trouble = ""
            if data["now"] > self._seen:
                self._add(data)
        else:
            self.trouble = data["error"]

    def _add(self, frame: dict[str, Any]) -> None:
        lines = [
            Line(
                record["at"],
                f"{record['kind']} of ranks {record['ranks']} to degree {record['degree']}: "
                f"{record['outcome']}, {record['seconds']:.2f} s",
                record.get("error", record["reason"]),
                record["outcome"] not in ("done", "unchanged"),
            )
            for record in frame["ended"]
        ]
        lines += [Line(one["at"], one["decision"], one["reason"]) for one in frame["decided"]]
        self.log.extend(sorted((one for one in lines if one.at > self._seen), key=lambda o: o.at))
        self.frame = frame
        moved = {rank for record in frame["ended"] for rank in record["ranks"]}
        operation = frame["operation"]
        moved |= set(operation["ranks"]) if operation else set()
        beat = frame.get("beat")
        if beat is not None:
            sample = [len(ranks) for ranks in self.instances for _ in ranks]
            self.degrees.append([-d if r in moved else d for r, d in enumerate(sample)])
            self.rates.append(beat["tokens_per_second"])
        self._seen = frame["now"]
