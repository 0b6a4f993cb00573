"""Words of shared memory in which workers of a test note their progress."""

import numpy as np
import torch.distributed as dist

from amoeba_sglang.planes.transport.segment import SharedSegment


def share_words(n: int) -> np.ndarray:
    """int64[n], one word for each rank of the world, zero at first."""
    memory = SharedSegment.create(dist.group.WORLD, 8 * n).memory
    return np.frombuffer(memory, dtype=np.int64)
