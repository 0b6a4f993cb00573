"""The one place that chooses what a server computes with."""

from amoeba_sglang.adapters.backend import Backend
from amoeba_sglang.adapters.cpu.backend import CpuBackend
from amoeba_sglang.adapters.cuda.backend import CudaBackend
from amoeba_sglang.adapters.emulated.backend import EmulatedBackend
from amoeba_sglang.adapters.reference.backend import ReferenceBackend
from amoeba_sglang.config import AmoebaConfig, GpuChoice
from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.errors import ConfigError


def backend_of(device: str, config: AmoebaConfig) -> Backend:
    """What the launcher has chosen, in any process of the server."""
    return choose_backend(device, config.emulation, config.gpu)


def choose_backend(
    device: str, emulation: Emulation | None = None, gpu: GpuChoice | None = None
) -> Backend:
    """The backend for the device that SGLang's tensors are on, or for what it is to pretend;
    ConfigError if there is none. `gpu`: of the workers, or what the host stands for."""
    if device not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: Amoeba serves on cuda and on cpu")
    if emulation is not None:
        if device == "cuda" or gpu is not None:
            raise ConfigError(
                "--amoeba-emulate: what it emulates computes nothing, on a GPU or in place of one; "
                "use --device cpu without --amoeba-reference-device"
            )
        return EmulatedBackend(emulation)
    if device == "cuda":
        assert gpu is not None, "the launcher asks the GPU for its kind"
        return CudaBackend(gpu)
    return CpuBackend() if gpu is None else ReferenceBackend(gpu)
