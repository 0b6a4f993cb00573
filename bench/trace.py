"""Request traces, and the changes that fit them to a smaller fleet or model. Pure."""

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from amoeba_sglang.errors import ConfigError

COLUMNS = ("timestamp_s", "input_tokens", "output_tokens")


@dataclass(frozen=True)
class TraceRequest:
    """One request: `arrival` in seconds since the start, and its lengths in tokens."""

    arrival: float
    input_tokens: int
    output_tokens: int

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class Workload:
    """What a recipe made of a trace: requests by arrival, and how many it clipped and mixed in."""

    requests: tuple[TraceRequest, ...]
    clipped: int
    mixed_in: int

    @property
    def span(self) -> float:
        """Seconds until the last arrival."""
        return self.requests[-1].arrival


@dataclass(frozen=True)
class Recipe:
    """How a trace is changed before it is replayed, in the order of the fields.

    rows: only the first so many; None is all. keep: the share of the rows that stay, each drawn by
    itself, which keeps the mix of lengths and the arrival process. spread: arrivals are drawn from
    so many seconds after their timestamps, for traces whose clock ticks slowly. scale: factor of
    all lengths. max_input, max_output: longer ones are clipped. long_percent: so many of 100
    requests become ones of long_input and long_output tokens. speed: arrivals come so many times
    as fast. seed: of every draw; those for one field do not depend on the others.
    """

    rows: int | None = None
    keep: float = 1.0
    spread: float = 0.0
    scale: float = 1.0
    max_input: int | None = None
    max_output: int | None = None
    long_percent: float = 0.0
    long_input: int = 0
    long_output: int = 0
    speed: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "max_input", "max_output"):
            limit = getattr(self, name)
            _require(limit is None or limit > 0, f"{name} {limit}: must be above 0")
        for name in ("scale", "speed"):
            _require(getattr(self, name) > 0, f"{name} {getattr(self, name):g}: must be above 0")
        _require(0 < self.keep <= 1, f"keep {self.keep:g}: must be above 0 and at most 1")
        _require(self.spread >= 0, f"spread {self.spread:g}: must not be negative")
        percent = self.long_percent
        _require(0 <= percent <= 100, f"long_percent {percent:g}: must be from 0 to 100")
        _require(
            percent == 0 or (self.long_input > 0 and self.long_output > 0),
            f"long_percent {percent:g}: long_input and long_output must be above 0",
        )

    def apply(self, trace: Sequence[TraceRequest]) -> Workload:
        """The first row of `trace` counts as second 0. ConfigError if no request is left."""
        keep, spread, long = (
            random.Random(f"{name} {self.seed}") for name in ("keep", "spread", "long")
        )
        made, clipped, mixed_in = [], 0, 0
        for row in trace[: self.rows]:
            # Every row takes one draw of each kind, whatever becomes of it.
            kept = keep.random() < self.keep
            late, is_long = spread.random() * self.spread, long.random() * 100 < self.long_percent
            if not kept:
                continue
            lengths = self.long_input, self.long_output
            if not is_long:
                scaled = self._scaled(row.input_tokens), self._scaled(row.output_tokens)
                lengths = _clip(scaled[0], self.max_input), _clip(scaled[1], self.max_output)
                clipped += lengths != scaled
            mixed_in += is_long
            arrival = (row.arrival - trace[0].arrival + late) / self.speed
            made.append(TraceRequest(arrival, *lengths))
        _require(bool(made), "no request of the trace is left")
        made.sort(key=lambda request: request.arrival)
        return Workload(tuple(made), clipped, mixed_in)

    def _scaled(self, tokens: int) -> int:
        return max(1, round(tokens * self.scale))


def read_trace(path: Path) -> list[TraceRequest]:
    """A CSV file with the columns `COLUMNS`, one request a row, in the order of its arrivals.

    Raises ConfigError that names the file and the line.
    """
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            _require(
                set(COLUMNS) <= set(reader.fieldnames or ()),
                f"{path}: the first line must name the columns {', '.join(COLUMNS)}",
            )
            trace = [_read_row(row, path, reader.line_num) for row in reader]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    _require(bool(trace), f"{path}: no requests")
    return sorted(trace, key=lambda request: request.arrival)


def _read_row(row: dict[str, str], path: Path, line: int) -> TraceRequest:
    try:
        time, prompt, output = (row[column] for column in COLUMNS)
        request = TraceRequest(float(time), int(prompt), int(output))
    except (TypeError, ValueError):
        raise ConfigError(f"{path}:{line}: not a time and two numbers of tokens") from None
    _require(
        request.input_tokens > 0 and request.output_tokens > 0,
        f"{path}:{line}: a request has at least 1 token of input and of output",
    )
    return request


def _clip(tokens: int, most: int | None) -> int:
    return tokens if most is None else min(tokens, most)


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise ConfigError(message)
