"""Which requests belong to an id that a client knows: SGLang gives the parts of a batch, and the
samples of a prompt, ids of its own."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(eq=False)
class _Batch:
    """`name`: the id that the client gave to all of it, if it did; `parts`: SGLang's ReqState of
    every request sent so far, by id; `aborted`: names of parts that are to end as they come."""

    name: str | None
    parts: Mapping[str, Any]
    aborted: set[str] = field(default_factory=set)

    def names_of(self, part: str) -> set[str | None]:
        return {self.name, part, prompt_id(self.parts[part].obj)}


class Batches:
    """The batches that have no answer yet."""

    def __init__(self) -> None:
        self._open: list[_Batch] = []

    @contextmanager
    def hold(self, name: str | None, parts: Mapping[str, Any]) -> Iterator[None]:
        """Know a batch while it is served. `parts` may grow meanwhile."""
        batch = _Batch(name, parts)
        self._open.append(batch)
        try:
            yield
        finally:
            self._open.remove(batch)

    def abort(self, name: str) -> list[str]:
        """The ids of all parts that `name` has by now; those that come later are aborted, too."""
        for batch in self._open:
            batch.aborted.add(name)
        return [
            part for batch in self._open for part in batch.parts if name in batch.names_of(part)
        ]

    def is_aborted(self, part: str) -> bool:
        """Whether a request was aborted, by one of its names, before it was sent."""
        return any(
            part in batch.parts and not batch.aborted.isdisjoint(batch.names_of(part))
            for batch in self._open
        )


def remember_id(request: Any) -> None:
    """Note the id of a prompt, which copies of its request keep when they get new ones."""
    request.prompt_id = request.rid


def prompt_id(request: Any) -> str | None:
    """The id noted on a request, or on the one that it is a copy of; None before it was."""
    return getattr(request, "prompt_id", None)
