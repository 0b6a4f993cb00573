"""Pure models of devices: how long a step and a transformation take, how many tokens fit."""

from amoeba_sglang.control.device.device_file import device_names, load_device
from amoeba_sglang.control.device.device_model import DeviceModel

__all__ = ["DeviceModel", "device_names", "load_device"]
