"""Check `one_gpu`: a real server whose two workers share this machine's first GPU.

It goes through changes under streams and afterwards says what it said before. They gather through
the host, so nothing of its speed means anything; it needs a patched SGLang with its kernels.
"""

from typing import Any

from bench.gpu_check.device import Device
from bench.gpu_check.elastic import exercise
from tests.serving.load import chat_prompts
from tests.serving.servers import MODEL, Server

FLAGS = (
    "--tp-size", "2", "--device", "cuda", "--amoeba-share-gpu", "--dtype", "bfloat16",
    "--max-total-tokens", "4096", "--mem-fraction-static", "0.4", "--amoeba-policy", "static",
)  # fmt: skip
_PROMPTS, _TOKENS = 4, 32


def check(device: Device) -> dict[str, Any]:
    """What the server showed; AssertionError if something is lost or different."""
    with Server(*FLAGS, model=MODEL) as server:
        return {"start_s": round(server.start_seconds, 1), **compare(server)}


def compare(server: Server) -> dict[str, Any]:
    """Greedy answers, each alone and without a cached prefix, before and after `exercise`."""
    before = _answers(server)
    found = exercise(server, figures=False)
    different = sum(one != other for one, other in zip(before, _answers(server), strict=True))
    assert not different, f"{different} of {_PROMPTS} greedy answers are others after the changes"
    return {**found, "answers": "as before"}


def _answers(server: Server) -> list[list[int]]:
    server.post("/flush_cache", {})
    prompts = chat_prompts(_PROMPTS, seed=5)
    return [server.generate(prompt, _TOKENS)["output_ids"] for prompt in prompts]
