"""How much of the KV is exchanged at a time, so that a fixed staging buffer is enough."""

from __future__ import annotations

from dataclasses import dataclass

from amoeba_sglang.errors import ConfigError

# Measured: fewer layers pay more for barriers, more layers push the buffer out of the cache.
_MOST_LAYERS = 6
_FEWEST_SLOTS = 64


@dataclass(frozen=True)
class Exchange:
    """One round of reads and writes: up to `layers` layers of up to `super_slots` super-slots."""

    layers: int
    super_slots: int


def fit_exchange(slot_bytes: int, staging_bytes: int) -> Exchange:
    """The exchange that `staging_bytes` can hold.

    `slot_bytes`: the most that one worker stages for one super-slot of one layer (K and V), above
    0. Raises ConfigError when not even one super-slot of one layer fits.
    """
    if staging_bytes < slot_bytes:
        raise ConfigError(
            f"--amoeba-staging-mib: a staging buffer of {staging_bytes} bytes is too small, one "
            f"token of one layer needs {slot_bytes} bytes"
        )
    slots = staging_bytes // slot_bytes
    layers = min(_MOST_LAYERS, max(1, slots // _FEWEST_SLOTS))
    return Exchange(layers, slots // layers)
