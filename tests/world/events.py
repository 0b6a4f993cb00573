"""One history as a list of events, which survives changes of the program and can be thinned out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Event:
    """`at`: virtual seconds from the start."""

    at: float


@dataclass(frozen=True)
class Ask(Event):
    """A client asks for `output` tokens after `prompt`, or leaves the end open (None).

    The first `shared` tokens of the prompt are those of common text number `text`. `leaves`:
    seconds after which the client goes away, None if it stays. `compiles`: seconds that its grammar
    takes, None without one. `rank`: the worker it asks for. `samples`: how many answers it wants.
    `may_stop`: an end of the text ends it, so that SGLang expects it to take less than it may.
    """

    rid: str
    prompt: int
    output: int | None
    text: int = 0
    shared: int = 0
    leaves: float | None = None
    compiles: float | None = None
    logprobs: bool = False
    priority: int | None = None
    rank: int | None = None
    samples: int = 1
    may_stop: bool = False


@dataclass(frozen=True)
class Change(Event):
    """An operator asks for another layout: the `pick`-th of those that the present one allows,
    round and round; if it `fits`, of those that hold all requests there are."""

    pick: int
    fits: bool = False


@dataclass(frozen=True)
class Fault(Event):
    """The next mapping of worker `rank` fails: of "layers" or, when the KV is to "grow"."""

    rank: int
    what: str = "layers"


@dataclass(frozen=True)
class NoPages(Event):
    """Worker `rank` refuses the next change, for lack of pages."""

    rank: int


@dataclass(frozen=True)
class Slow(Event):
    """The next step of worker `rank` takes so many seconds more."""

    rank: int
    seconds: float


@dataclass(frozen=True)
class Late(Event):
    """The next message of worker `rank` to the router, or of the router to it, takes so many
    seconds more; all that follow it wait behind it."""

    rank: int
    seconds: float
    to_worker: bool = False


@dataclass(frozen=True)
class Pause(Event):
    """Generation pauses for so many seconds; `mode` as of /pause_generation."""

    seconds: float
    mode: str = "in_place"


@dataclass(frozen=True)
class Flush(Event):
    """The cache is to be flushed, within so many seconds."""

    seconds: float


@dataclass(frozen=True)
class AbortAll(Event):
    """Every request is aborted."""


@dataclass(frozen=True)
class Strike(Event):
    """A client leaves at the next `moment` of worker `rank` (a name of MOMENTS) at which there is a
    request of its kind, `victim`: "long", "chunked", "waiting" or "any"."""

    rank: int
    moment: str
    victim: str


@dataclass(frozen=True)
class Weights(Event):
    """Weights are to be updated ("update") or read by name ("read"), which takes a worker so many
    seconds."""

    what: str
    seconds: float


@dataclass(frozen=True)
class Lose(Event):
    """Worker `rank` dies, is stopped, or makes no progress any more: "dies", "stops", "hangs"."""

    rank: int
    how: str


# Effects of the worker's protocol at which a Strike may come.
MOMENTS = (
    "Consider", "Vote", "StandDown", "Approach", "MayMeet", "Enter", "Advance", "Join", "Listen",
    "Exchange",
)  # fmt: skip
VICTIMS = ("long", "chunked", "waiting", "any")

KINDS = {
    kind.__name__: kind
    for kind in (
        Ask,
        Change,
        Fault,
        NoPages,
        Slow,
        Late,
        Pause,
        Flush,
        AbortAll,
        Strike,
        Weights,
        Lose,
    )  # fmt: skip
}


@dataclass(frozen=True)
class History:
    """`seed` decides what the events leave open: delays, step times, ties."""

    seed: str
    events: tuple[Event, ...]

    FORMAT: ClassVar[int] = 1

    def dump(self) -> list[str]:
        """A line of JSON for each event."""
        return [
            json.dumps([type(event).__name__, _without_defaults(event)]) for event in self.events
        ]

    @classmethod
    def load(cls, seed: str, lines: Iterable[str]) -> History:
        parsed = (json.loads(line) for line in lines)
        return cls(seed, tuple(KINDS[name](**fields) for name, fields in parsed))


def _without_defaults(event: Event) -> dict[str, object]:
    defaults = {name: field.default for name, field in type(event).__dataclass_fields__.items()}
    return {name: value for name, value in asdict(event).items() if value != defaults[name]}
