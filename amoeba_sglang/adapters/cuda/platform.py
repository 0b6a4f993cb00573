"""The platform class of workers on GPUs. Not yet run on a GPU."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from sglang.srt.platforms.cuda import CudaSRTPlatform

from amoeba_sglang.config import AmoebaConfig


class CudaPlatform(CudaSRTPlatform):
    """SGLang's own for CUDA, in everything that it is asked; its attention also takes the explicit
    slots of joint steps."""

    def get_torch_distributed_backend_str(self) -> str:
        from sglang.srt.runtime_context import get_server_args

        # SGLang's own launcher runs on this platform, too.
        config: AmoebaConfig | None = getattr(get_server_args(), "_amoeba", None)
        if config is not None and config.shares_gpu:
            return "gloo"
        return super().get_torch_distributed_backend_str()

    def post_load_model(self, model: Any) -> None:
        # SGLang calls `init_backend` of platforms only whose devices it does not know itself, and
        # makes attention after this.
        from sglang.srt.layers.attention.attention_registry import register_attention_backend

        from amoeba_sglang.adapters.model.elastic_model import adopt_if_ours

        super().post_load_model(model)
        for name, place in _CLASSES.items():
            register_attention_backend(name)(_maker(place))
        adopt_if_ours(model)


def _maker(place: str) -> Callable[[Any], Any]:
    """What makes the class there, whose module only a process with a model should import."""

    def make(model_runner: Any) -> Any:
        module, name = place.split(":")
        return getattr(import_module(module), name)(model_runner)

    return make


_CLASSES = {
    "fa3": f"{__package__}.fa3_attention:Fa3Attention",
    "flashinfer": f"{__package__}.flashinfer_attention:FlashInferAttention",
    "triton": f"{__package__}.triton_attention:TritonAttention",
    "trtllm_mha": f"{__package__}.trtllm_attention:TrtllmAttention",
}
"""By upstream's name, which users know and upstream's own checks ask for."""
