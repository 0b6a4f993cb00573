"""A worker whose mappings fail, or that dies in one, when a file says so."""

import os
import signal
from pathlib import Path

from amoeba_sglang.planes.memory.base import MemoryFault
from tests.serving.audited.worker import AuditedScheduler

FAULTY_RANK = 1


class FaultyScheduler(AuditedScheduler):
    """The file TEST_FAULT_FILE orders a fault of rank 1: "fail 3" lets the third mapping from now
    on fail half way, "kill 3" ends the process there. The worker removes the file then."""

    def __init__(self, *args):
        super().__init__(*args)
        if self.runtime.rank == FAULTY_RANK:
            memory = self.tp_worker.model_runner.token_to_kv_pool.memory
            order = Path(os.environ["TEST_FAULT_FILE"])
            map_pages, calls = memory.map, 0

            def map_or_fail(where, offset, pages, populate=False):
                nonlocal calls
                if not order.exists():
                    calls = 0
                    return map_pages(where, offset, pages, populate)
                calls += 1
                kind, count = order.read_text().split()
                if calls < int(count):
                    return map_pages(where, offset, pages, populate)
                order.unlink()
                map_pages(where, offset, list(pages)[: len(pages) // 2], populate)
                if kind == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                raise MemoryFault("a mapping was made to fail")

            memory.map = map_or_fail
