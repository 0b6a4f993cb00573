"""The one place that chooses what a server computes with."""

from amoeba_sglang.adapters.backend import Backend
from amoeba_sglang.adapters.cpu.backend import CpuBackend
from amoeba_sglang.adapters.emulated.backend import EmulatedBackend
from amoeba_sglang.adapters.reference.backend import ReferenceBackend
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.errors import ConfigError


def backend_of(device: str, config: AmoebaConfig) -> Backend:
    """What the launcher has chosen, in any process of the server."""
    return choose_backend(device, config.emulation, config.reference)


def choose_backend(
    device: str, emulation: Emulation | None = None, reference: str | None = None
) -> Backend:
    """The backend for SGLang's --device, or for what it is to pretend; ConfigError if there is
    none. `reference`: the GPU that the host stands for."""
    if reference is not None:
        if emulation is not None:
            raise ConfigError(
                f"--amoeba-reference-device {reference}: it computes, --amoeba-emulate does not; "
                "leave one of them out"
            )
        return ReferenceBackend(reference)
    if device != "cpu":
        raise ConfigError(
            f"--device {device}: joint steps run only on the CPU yet, use --device cpu"
        )
    return CpuBackend() if emulation is None else EmulatedBackend(emulation)
