"""What a desk knows of its world, shared by the parts that decide."""

from dataclasses import dataclass, field

from amoeba_sglang.control.router.calibration import Calibration
from amoeba_sglang.control.router.loads import LoadBook
from amoeba_sglang.control.router.long_book import LongBook
from amoeba_sglang.control.router.long_queue import LongQueue
from amoeba_sglang.control.router.operation import Operations


@dataclass
class Books:
    """operations: the layout and its change; calibration: what steps cost; loads, longs: of the
    workers. queue: long requests that wait for the rules of the layout to make room; held: those
    that only the end of the running transformation decides. opened: when the desk came to be."""

    operations: Operations
    calibration: Calibration
    loads: LoadBook
    longs: LongBook
    opened: float = 0.0
    queue: LongQueue = field(default_factory=LongQueue)
    held: LongQueue = field(default_factory=LongQueue)

    @property
    def waiting(self) -> int:
        """Requests that no worker has."""
        return len(self.held) + len(self.queue)
