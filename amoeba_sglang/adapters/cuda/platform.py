"""The platform class of workers on GPUs. Not yet run on a GPU."""

from typing import Any

from sglang.srt.platforms.cuda import CudaSRTPlatform


class CudaPlatform(CudaSRTPlatform):
    """SGLang's own for CUDA, in everything that it is asked; its attention also takes the explicit
    slots of joint steps."""

    def post_load_model(self, model: Any) -> None:
        # SGLang calls `init_backend` of platforms only whose devices it does not know itself, and
        # makes attention after this.
        from sglang.srt.layers.attention.attention_registry import register_attention_backend

        from amoeba_sglang.adapters.model.elastic_model import adopt_if_ours

        super().post_load_model(model)
        for name, make in _MAKERS.items():
            register_attention_backend(name)(make)
        adopt_if_ours(model)


def _make_flashinfer(model_runner: Any) -> Any:
    from amoeba_sglang.adapters.cuda.flashinfer_attention import FlashInferAttention

    return FlashInferAttention(model_runner)


def _make_triton(model_runner: Any) -> Any:
    from amoeba_sglang.adapters.cuda.triton_attention import TritonAttention

    return TritonAttention(model_runner)


def _make_trtllm(model_runner: Any) -> Any:
    from amoeba_sglang.adapters.cuda.trtllm_attention import TrtllmAttention

    return TrtllmAttention(model_runner)


_MAKERS = {
    "flashinfer": _make_flashinfer,
    "triton": _make_triton,
    "trtllm_mha": _make_trtllm,
}
"""By upstream's name, which users know and upstream's own checks ask for."""
