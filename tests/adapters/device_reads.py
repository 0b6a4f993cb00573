"""Whether something reads from a device, told from tensors that are on one in name."""

import traceback

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Reads(TorchDispatchMode):
    """Collects where something goes from the device to the host."""

    def __init__(self):
        super().__init__()
        self.places = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [value for value in args if isinstance(value, torch.Tensor)]
        from_device = any(tensor.device.type == "cuda" for tensor in tensors)
        to_host = isinstance(out, torch.Tensor) and out.device.type == "cpu"
        if from_device and (to_host or function is torch.ops.aten._local_scalar_dense.default):
            frame = next(
                frame
                for frame in reversed(traceback.extract_stack()[:-1])
                if "/torch/" not in frame.filename
            )
            self.places.append(f"{frame.filename}: {frame.name}")
        return out
