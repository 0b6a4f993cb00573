"""SGLang's gateway (PyPI `sglang-router`) in front of several servers, as a child process."""

import sys
import time
from collections.abc import Sequence

from tests.serving.free_port import free_port
from tests.serving.servers import PORTS, Server

_REGISTER_TIMEOUT_S = 60.0
# The set-up that README names. A server that refuses a request is not ill, but the gateway counts
# every status above 299 as a failure of its circuit breaker; health checks find the dead ones.
SET_UP = (
    "--policy", "manual", "--assignment-mode", "min_load", "--disable-circuit-breaker",
    "--health-check-interval-secs", "5", "--health-failure-threshold", "2",
)  # fmt: skip


class Gateway(Server):
    """Started on enter, once it knows that all servers are healthy; reaped on exit."""

    def __init__(self, urls: Sequence[str], *args: str) -> None:
        super().__init__()
        self.servers = len(urls)
        self.command = [
            sys.executable, "-m", "sglang_router.launch_router", "--host", "127.0.0.1",
            "--port", str(self.port), "--prometheus-port", str(free_port(*PORTS)),
            "--worker-urls", *urls, *SET_UP, *args,
        ]  # fmt: skip

    def _wait_ready(self) -> None:
        super()._wait_ready()
        deadline = time.monotonic() + _REGISTER_TIMEOUT_S
        while self.healthy() < self.servers:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.healthy()} of {self.servers} healthy:\n{self.tail()}")
            time.sleep(0.1)

    def healthy(self) -> int:
        """Servers that it would send requests to."""
        return sum(worker["is_healthy"] for worker in self.get("/workers")["workers"])
