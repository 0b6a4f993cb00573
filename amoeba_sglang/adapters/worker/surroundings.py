"""What a worker is connected to: clock, peers, router and helper."""

from collections.abc import Iterable
from concurrent.futures import Executor
from typing import Any, Protocol

import numpy as np

from amoeba_sglang.adapters.backend import Backend
from amoeba_sglang.adapters.worker.connections import Groups, share_words
from amoeba_sglang.adapters.worker.router_link import RouterLink
from amoeba_sglang.clock import Clock
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.reports import Report
from amoeba_sglang.planes.contract import Plane
from amoeba_sglang.planes.transport import Bell


class PeerBell(Protocol):
    """Of a Bell."""

    def fileno(self) -> int: ...

    def ring(self, ranks: Iterable[int], tag: tuple[int, int]) -> None: ...

    def rung(self, tag: tuple[int, int]) -> bool: ...


class Link(Protocol):
    """Of a RouterLink."""

    def send(self, report: Report) -> None: ...


class Surroundings(Protocol):
    """Makes what connects one worker to the others and to the router.

    An ElasticScheduler is given them; LiveSurroundings unless a test gives others. All but `clock`
    are used once, while the worker is built.
    """

    clock: Clock

    def share_words(self) -> np.ndarray:
        """A zeroed int64 for every worker, [workers], which all see; collective over them."""
        ...

    def plane(self, scheduler: Any, rank: int, groups: Groups) -> Plane:
        """What computes and moves for an ElasticScheduler; collective over all workers."""
        ...

    def connect(self, chain: DegreeChain, progress: np.ndarray) -> Groups:
        """Transports of every degree; collective. `progress`: counters from `share_words`."""
        ...

    def bell(self, rank: int) -> PeerBell:
        """What peers wake this worker with."""
        ...

    def link(self, rank: int) -> Link:
        """The worker's line to the router."""
        ...

    def helper(self) -> Executor:
        """One thread, which copies while the worker's own computes."""
        ...


class LiveSurroundings:
    """Those of a worker process."""

    def __init__(self, config: AmoebaConfig, backend: Backend) -> None:
        self._config, self._backend = config, backend
        self.clock = Clock(config.dilation)

    def share_words(self) -> np.ndarray:
        return share_words(self._config)

    def connect(self, chain: DegreeChain, progress: np.ndarray) -> Groups:
        return Groups.create(self._config, chain, progress)

    def plane(self, scheduler: Any, rank: int, groups: Groups) -> Plane:
        return self._backend.make_plane(scheduler, rank, groups)

    def bell(self, rank: int) -> PeerBell:
        return Bell(self._config.run_directory, rank)

    def link(self, rank: int) -> Link:
        return RouterLink(self._config.report_address)

    def helper(self) -> Executor:
        return self._backend.helper()
