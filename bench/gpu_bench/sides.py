"""The servers that are compared."""

from dataclasses import dataclass

from amoeba_sglang.adapters.cpu import VARIABLE
from amoeba_sglang.adapters.cuda.backend import CudaBackend
from amoeba_sglang.adapters.cuda.kinds import ROWS, Row, choose_row
from amoeba_sglang.adapters.reference.backend import ReferenceBackend
from bench.idle import stock_environment
from tests.serving.servers import Server


@dataclass(frozen=True)
class Load:
    """How much is measured. rounds: of every server, and of a walk through all switches; streams:
    of a worker; prompts, requests and lengths in tokens; quiet_s: between switches."""

    rounds: int = 2
    streams: int = 4
    prompt_tokens: int = 1500
    requests: int = 200
    concurrency: int = 64
    output_tokens: int = 256
    quiet_s: float = 3.0
    switches: int = 73


TINY = Load(
    rounds=1, streams=1, prompt_tokens=40, requests=4, concurrency=2, output_tokens=8,
    quiet_s=0.2, switches=4,
)  # fmt: skip


@dataclass(frozen=True)
class Sides:
    """kind: of the GPUs; reference: whether the host stands for them."""

    model: str
    workers: int
    kind: str
    dtype: str
    reference: bool = False

    @property
    def row(self) -> Row:
        """What computes at degree 1 unless a flag says otherwise."""
        return choose_row(self.kind, self.dtype)

    @property
    def memory_page_kib(self) -> int:
        """Of weights and KV."""
        return (ReferenceBackend if self.reference else CudaBackend).pages.usual

    @property
    def others(self) -> dict[str, tuple[str, ...]]:
        """By name the flags of what else computes degree 1 in this type."""
        found = {
            row.attention: ("--attention-backend", row.attention)
            for row in ROWS[self.kind]
            if self.dtype in row.types and row != self.row
        }
        if 1 in self.row.pages[1:]:
            found[f"{self.row.attention} in pages of one token"] = ("--page-size", "1")
        return found

    def elastic(self, *flags: str) -> Server:
        """Ours, whose layout changes only when it is asked for."""
        device = ["--device", "cuda"]
        if self.reference:
            # A pool of a few hundred tokens: the interpreter moves no more in a second.
            device += ["--amoeba-reference-device", self.kind, "--max-total-tokens", "512"]
            device += ["--chunked-prefill-size", "128", "--max-running-requests", "8"]
        own = ("--tp-size", str(self.workers), "--dtype", self.dtype, "--amoeba-policy", "static")
        return Server(*own, *device, *flags, model=self.model)

    def stock(self, size: str) -> Server:
        """SGLang alone. `size`: the flag that takes all GPUs, --dp-size or --tp-size."""
        flags = [size, str(self.workers), "--dtype", self.dtype]
        environment = {VARIABLE: ""}
        if self.reference:
            flags += ["--max-total-tokens", "512", "--sleep-on-idle"]
            environment = stock_environment(self.workers)
        else:
            flags += ["--device", "cuda"]
        return Server(*flags, model=self.model, module="sglang.launch_server", env=environment)
