"""python -m tests.adapters.cuda.pretended: the launcher on a host that pretends to have GPUs, up to
where it would serve. Prints a line of JSON."""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import sysconfig
import types
from pathlib import Path

import torch

from amoeba_sglang import launch_server
from amoeba_sglang.adapters.cuda import backend

GPUS = int(os.environ.get("PRETENDED_GPUS", "4"))


class Kernels(types.ModuleType):
    """SGLang's kernel library, which needs a GPU to be imported: it has every name."""

    def __init__(self, name):
        super().__init__(name)
        self.__path__ = []
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] != "sgl_kernel":
            return None
        if name == "sgl_kernel.scalar_type":
            # Plain values, which others are made of as soon as they are imported.
            file = Path(sysconfig.get_path("purelib"), "sgl_kernel/scalar_type.py")
            return importlib.util.spec_from_file_location(name, file)
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return Kernels(spec.name)

    def exec_module(self, module):
        """Nothing."""


def pretend():
    properties = types.SimpleNamespace(
        name="NVIDIA H200", major=9, minor=0, total_memory=141 << 30, multi_processor_count=132,
        gcnArchName="", uuid="0",
    )  # fmt: skip
    answers = {
        "is_available": True, "device_count": GPUS, "current_device": 0,
        "get_device_capability": (9, 0), "get_device_properties": properties,
        "get_device_name": properties.name, "mem_get_info": (140 << 30, 141 << 30),
        "_lazy_init": None, "set_device": None,
    }  # fmt: skip
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *args, answer=answer, **kwargs: answer)
    sys.meta_path.insert(0, Finder())
    backend.load_bindings = lambda: None
    backend.read_reach = lambda bindings: [[True] * GPUS] * GPUS


def show(server_args, config):
    from sglang.srt.platforms import current_platform

    print(
        json.dumps(
            {
                "platform": type(current_platform).__name__,
                "attention": server_args.attention_backend,
                "page": server_args.page_size,
                "device": server_args.device,
                "pages_kib": config.page_size_kib,
                "kind": config.gpu.kind,
                "step": server_args.gpu_id_step,
                "workers": config.workers,
                "dynamo": os.environ.get("TORCHDYNAMO_DISABLE"),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    pretend()
    launch_server.serve = show
    sys.exit(launch_server.main(sys.argv[1:]))
