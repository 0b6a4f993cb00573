"""What the workers of a world are built for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What workers are built for. `workers` of each of `groups`; `tokens`: of a worker's own pool;
    `layers` move one a step, as many steps as a real change of some 30 layers, a few a step, has.
    grown: tokens above the workers' own pools at the highest degree, as a multiple of one pool.
    conservativeness: SGLang's share of an output that a request is expected to take."""

    workers: int = 2
    groups: int = 1
    tokens: int = 128
    page: int = 1
    chunk: int = 32
    layers: int = 8
    rows: int = 16
    grown: float = 2.3
    policy: str = "static"
    priorities: bool = False
    conservativeness: float = 1.0

    def grown_slots(self, degree: int) -> int:
        """Of an instance, in KV pages."""
        if degree == 1:
            return 0
        share = (degree - 1) / (self.workers - 1)
        return int(self.grown * self.tokens * share) // self.page
