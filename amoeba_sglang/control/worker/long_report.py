"""What the router is told about the long requests of a worker."""

from collections.abc import Iterable

from amoeba_sglang.control.reports import LongRequestsHere


class LongReport:
    """Remembers which were reported, and which have arrived since.

    One that arrives and ends between two looks, since it is refused or aborted at once, is never
    found in a queue or a batch: the router would keep it in its book for long.
    """

    def __init__(self) -> None:
        self._known: list[str] = []
        self._arrived: set[str] = set()

    @property
    def due(self) -> bool:
        """Whether there may be something to report: looking for it costs a walk over all."""
        return bool(self._known or self._arrived)

    def arrive(self, request_id: str) -> None:
        """A long request has come, whatever becomes of it."""
        self._arrived.add(request_id)

    def next(self, rank: int, found: Iterable[str]) -> LongRequestsHere | None:
        """What to report if others than before are found now, or some have come and gone."""
        ids = sorted(set(found))
        ended = sorted(self._arrived - set(ids))
        self._arrived.clear()
        if ids == self._known and not ended:
            return None
        self._known = ids
        return LongRequestsHere(rank=rank, request_ids=ids, ended=ended)
