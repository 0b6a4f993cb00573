"""What a server pretends to run on."""

from dataclasses import dataclass
from typing import Any

from amoeba_sglang.control.device.device_model import DeviceModel
from amoeba_sglang.control.device.step_work import StepWork


@dataclass(frozen=True)
class Emulation:
    """`dilation`: real seconds in which one emulated second passes.

    All durations and clocks of the server's own code are in emulated seconds, see
    `Clock`; what upstream and clients measure is real and `dilation` times as long.
    """

    device: DeviceModel
    dilation: float

    def step_seconds(self, degree: int, work: StepWork) -> float:
        """Emulated seconds of a step of an instance; none without work."""
        if not work:
            return 0.0
        return self.device.step_seconds(
            degree,
            work.prefill_tokens,
            work.prefill_context,
            work.decode_rows,
            work.context_tokens,
        )

    @property
    def sentence(self) -> str:
        """That, what and how fast, for a person."""
        device = self.device
        return (
            f"EMULATED {device.model.name} on {device.device} ({device.cost_model}), an emulated "
            f"second takes {self.dilation:g} real ones"
        )

    def describe(self) -> dict[str, Any]:
        """For `GET /amoeba/state`."""
        return {
            "device_file": self.device.name,
            "device": self.device.device,
            "cost_model": self.device.cost_model,
            "model": self.device.model.name,
            "dilation": self.dilation,
        }
