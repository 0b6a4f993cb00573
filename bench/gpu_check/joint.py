"""Check `joint`: do merged workers compute what one computes alone, before, after and beside pages
that change hands.

Every worker first computes rows of its own alone. After each merge the instance computes their last
tokens again, over KV that has moved and with shards of the weights; and a row of tokens whose KV
lies in memory that held weights. A recorded part of a step is replayed after its pages were gone
and came back. Back at degree 1 weights and KV must be the same bits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from amoeba_sglang.control.layout.slots import DegreeChain
from bench.gpu_check.decoder import Decoder, Row, Sizes
from bench.gpu_check.device import Device
from bench.gpu_check.workers import Group, Workers

LARGE = Sizes(
    layers=4, hidden=1024, heads=16, kv_heads=8, dim=64, intermediate=4096, slots=512,
    page_bytes=2 << 20,
)  # fmt: skip
SMALL = Sizes(
    layers=2, hidden=256, heads=8, kv_heads=4, dim=8, intermediate=4096, slots=40,
    page_bytes=2 << 20,
)  # fmt: skip
_ROWS, _PROMPT, _AGAIN, _LONG = 2, 9, 4, 6
# Of outputs whose size is about 1, in float32.
_TOLERANCE = 1e-3


def check(device: Device, sizes: Sequence[int] = (2, 4), small: bool = False) -> dict[str, Any]:
    """What was compared, by number of workers; AssertionError if something differs. `small`: a
    decoder for a stand-in."""
    found = {}
    for count in sizes:
        chain = DegreeChain(tuple(2**n for n in range(count.bit_length())))
        with Workers(count, Joint, device, chain, SMALL if small else LARGE) as workers:
            workers.ask("meet", workers.ask("export"))
            workers.ask("teach")
            figures: dict[str, Any] = {"furthest": {}}
            for degree in chain.degrees[1:]:
                workers.ask("merge", degree)
                figures["furthest"][degree] = max(workers.ask("decode"))
                figures["in grown memory"] = max(workers.ask("use_grown"))
            workers.ask("replay")
            figures["weight_bytes"] = max(workers.ask("merge", 1))
            workers.ask("compare_bits")
            found[f"N={count}"] = {**figures, "bits": "as they were", "replays": "as before"}
            workers.ask("close")
    return found


class Joint(Decoder):
    """A worker with rows 0.._ROWS of its own, and one more that it computes for the instance."""

    def __init__(self, group: Group, device: Device, chain: DegreeChain, sizes: Sizes) -> None:
        super().__init__(group, device, chain, sizes)
        self._everybody = range(group.size)

    def _slots(self, home: int) -> list[np.ndarray]:
        """Local slots of the rows of a worker, scattered; the last row's is the instance's."""
        order = np.random.default_rng(home).permutation(self.sizes.slots) + 1
        ends = np.cumsum([_PROMPT + _AGAIN] * _ROWS + [_LONG])
        return np.split(order[: ends[-1]].astype(np.int64), ends[:-1])

    def _live(self, home: int) -> np.ndarray:
        return np.sort(np.concatenate(self._slots(home)))

    def _rows(self, home: int, length: int) -> list[Row]:
        """Rows of a worker with so many tokens, in the slots that its instance gives them."""
        place = home % self.degree
        return [
            Row(home, number, self.chain.joint_slots(self.degree, place, slots[:length]))
            for number, slots in enumerate(self._slots(home)[:_ROWS])
        ]

    @torch.inference_mode()
    def teach(self) -> None:
        """Compute all rows alone."""
        rank = self._group.rank
        outputs = [self.step(self._rows(rank, n + 1)) for n in range(_PROMPT + _AGAIN)]
        self._expected = outputs[_PROMPT:]
        mine = self._slots(rank)[_ROWS]
        self._long = [self.step([Row(rank, _ROWS, mine[: n + 1])]) for n in range(_LONG)]
        self._bits = self.bits(np.concatenate([slots[:_PROMPT] for slots in self._slots(rank)]))

    @torch.inference_mode()
    def merge(self, degree: int) -> int:
        return self.change(degree, [self._live(home) for home in self._everybody])

    @torch.inference_mode()
    def decode(self) -> float:
        """How far the last tokens of own rows are from what they were alone."""
        first, furthest = self._group.rank // self.degree * self.degree, 0.0
        mine = self._group.rank - first
        for number, expected in enumerate(self._expected):
            length = _PROMPT + number + 1
            homes = range(first, first + self.degree)
            found = self.step([row for home in homes for row in self._rows(home, length)])
            own = found[mine * _ROWS : (mine + 1) * _ROWS]
            furthest = max(furthest, self._distance(own, expected))
        return furthest

    @torch.inference_mode()
    def use_grown(self) -> float:
        """The same for the instance's row, whose KV is where weights were."""
        anchor = self._group.rank // self.degree * self.degree
        first, count = self.grown()
        assert count >= _LONG, f"{count} slots have come, {_LONG} are needed"
        slots, furthest = np.arange(first + count - _LONG, first + count), 0.0
        for number in range(_LONG):
            found = self.step([Row(anchor, _ROWS, slots[: number + 1])])
            if self._group.rank == anchor:
                furthest = max(furthest, self._distance(found, self._long[number]))
        return furthest

    def _distance(self, found: torch.Tensor, expected: torch.Tensor) -> float:
        far = float((found - expected).abs().max())
        assert far <= _TOLERANCE, (
            f"worker {self._group.rank}, degree {self.degree}: outputs differ by {far}"
        )
        return far

    @torch.inference_mode()
    def replay(self) -> None:
        """A recorded part of a step, before and after its pages were elsewhere."""
        degree, rank = self.degree, self._group.rank
        rows = self._rows(rank // degree * degree, _PROMPT)
        x = torch.stack([self._embed(row) for row in rows])
        where = [torch.from_numpy(row.slots).to(x.device) for row in rows]
        ends, out = torch.stack([slots[-1] for slots in where]), torch.zeros_like(x)

        def launch() -> None:
            out.copy_(self.attend(0, x, where, ends) + self.expand(0, x))

        again, found = self._device.capture(launch), []
        for away in (False, True):
            if away:
                self.merge(1)
                self.merge(degree)
            out.zero_()
            again()
            self._device.synchronize()
            found.append(out.clone())
        launch()
        self._device.synchronize()
        assert bool(out.any()), "nothing was computed"
        for one in found:
            assert torch.equal(one, out), f"worker {rank}: a replay at degree {degree} differs"

    def compare_bits(self) -> None:
        rank = self._group.rank
        now = self.bits(np.concatenate([slots[:_PROMPT] for slots in self._slots(rank)]))
        for number, (one, other) in enumerate(zip(self._bits, now, strict=True)):
            assert torch.equal(one, other), f"worker {rank}: part {number} is not as it was"
