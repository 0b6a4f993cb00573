"""How the memory of one device is divided, in bytes."""

from dataclasses import dataclass

from amoeba_sglang.control.layout.slots import DegreeChain


@dataclass(frozen=True)
class DeviceMemory:
    """`total`, of which `static` is for weights, KV and communicators; the rest is for activations,
    recorded steps and the runtime, as with SGLang's --mem-fraction-static.

    `communicators`: of each degree above 1; `recorded_steps`: of each degree. A server on GPUs says
    both when it starts.
    """

    total: int
    static: int
    communicators: int = 0
    recorded_steps: int = 0

    def usable(self, chain: DegreeChain) -> int:
        """For weights and KV, beside the communicators of all degrees; may be below 0."""
        return self.static - (len(chain.degrees) - 1) * self.communicators

    def excess(self, chain: DegreeChain) -> int:
        """What the recorded steps of all degrees take beyond what is not static."""
        return max(0, len(chain.degrees) * self.recorded_steps - (self.total - self.static))
