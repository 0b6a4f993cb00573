"""Which long requests live at which worker, and since when none does."""

from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

# A worker that was sent a request and has never named it is believed to have lost it after this
# time.
UNSEEN_S = 30.0


class Promise(NamedTuple):
    """What the request `request_id` at `rank` needs: so many tokens of prompt and output. `since`:
    when it was sent there."""

    rank: int
    request_id: str
    tokens: int
    since: float


class LongBook:
    """Requests that the router sends and the workers' reports confirm and end. Times in seconds."""

    def __init__(self, workers: int, now: float) -> None:
        self._sent: list[dict[str, float]] = [{} for _ in range(workers)]
        self._seen: list[set[str]] = [set() for _ in range(workers)]
        self._quiet_since = [now] * workers
        # Of those that are neither aborted nor unknown here.
        self._promises: list[dict[str, Promise]] = [{} for _ in range(workers)]

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(map(self._count, range(len(self._sent))))

    @property
    def quiet_since(self) -> tuple[float, ...]:
        return tuple(self._quiet_since)

    def living(self) -> Iterator[Promise]:
        """Of every request that still needs what it was promised."""
        for promises in self._promises:
            yield from promises.values()

    def send(self, rank: int, request_id: str, tokens: int, now: float) -> None:
        """A request of so many tokens of prompt and output goes to `rank`."""
        self._sent[rank][request_id] = now
        self._promises[rank][request_id] = Promise(rank, request_id, tokens, now)

    def report(
        self, rank: int, request_ids: Collection[str], ended: Collection[str], now: float
    ) -> None:
        """The long requests that `rank` has, waiting or running: all of them. `ended`: those that
        have come and gone."""
        had = self._count(rank)
        for request_id in (*request_ids, *ended):
            self._sent[rank].pop(request_id, None)
        self._seen[rank] = set(request_ids)
        self._note_end(rank, had, now)

    def abort(self, names: Callable[[str], bool]) -> None:
        """What is aborted leaves as soon as its worker hears of it, and needs nothing any more."""
        for promises in self._promises:
            for request_id in filter(names, list(promises)):
                del promises[request_id]

    def forget_unseen(self, now: float) -> None:
        """Drop what was sent long ago and never confirmed."""
        for rank, sent in enumerate(self._sent):
            lost = [request_id for request_id, at in sent.items() if now - at > UNSEEN_S]
            if lost:
                had = self._count(rank)
                for request_id in lost:
                    del sent[request_id]
                self._note_end(rank, had, now)

    def start_layout(self, ranks: Collection[int], now: float) -> None:
        """The instances of `ranks` are new."""
        for rank in ranks:
            self._quiet_since[rank] = now

    def _count(self, rank: int) -> int:
        return len(self._sent[rank].keys() | self._seen[rank])

    def _note_end(self, rank: int, had: int, now: float) -> None:
        if had and not self._count(rank):
            self._quiet_since[rank] = now
        here, promises = self._sent[rank].keys() | self._seen[rank], self._promises[rank]
        for request_id in [key for key in promises if key not in here]:
            del promises[request_id]
