"""Check `elastic`: a real server on this machine's GPUs goes through every degree under streams.

It starts like anybody's; what it needs is a patched SGLang with its kernels. What compiling takes
is a part of `start_s`.
"""

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench.gpu_check.device import Device
from bench.reference.servers import change
from tests.serving.load import chat_prompts
from tests.serving.servers import MODEL, Server

STREAMS, NEW_TOKENS, TAUGHT, ROUNDS = 8, 64, 120, 2
# Of mean log-likelihood in bfloat16, whose sums of shards are rounded otherwise.
_TOLERANCE = 0.02


def check(device: Device) -> dict[str, Any]:
    """Figures by degree and change; AssertionError if something is lost or different."""
    gpus = device.describe()["gpus"]
    assert gpus >= 2, f"instances merge on at least 2 GPUs, there are {gpus}"
    flags = ("--device", "cuda", "--dtype", "bfloat16", "--amoeba-policy", "static")
    with Server("--tp-size", str(4 if gpus >= 4 else 2), *flags, model=MODEL) as server:
        return {"start_s": round(server.start_seconds, 1), **exercise(server, device.figures)}


def exercise(server: Server, figures: bool) -> dict[str, Any]:
    """Streams while the layout goes up and down through all degrees, then what a text's
    log-likelihood is at each. `figures`: whether times mean anything."""
    degrees, everybody = server.state()["degrees"], list(range(server.state()["workers"]))
    text = server.generate("The capital of France is", TAUGHT)["output_ids"]
    with ThreadPoolExecutor(STREAMS) as pool:
        streams = [pool.submit(server.generate, one, NEW_TOKENS) for one in chat_prompts(STREAMS)]
        path = [*degrees[1:], *degrees[-2::-1]] * ROUNDS
        changes = [_change(server, everybody, degree, figures) for degree in path]
        lost = [s for s in streams if len(s.result()["output_ids"]) != NEW_TOKENS]
    assert not lost, f"{len(lost)} of {STREAMS} streams are not whole"
    likelihoods, rates = {}, {}
    for degree in [*degrees[1:], 1]:
        _change(server, everybody, degree, figures)
        likelihoods[degree] = statistics.fmean(server.score(text))
        rates[degree] = _tokens_a_second(server) if figures else "withheld"
    far = {d: mean for d, mean in likelihoods.items() if abs(mean - likelihoods[1]) > _TOLERANCE}
    assert not far, f"log-likelihoods {far} are not that of degree 1, {likelihoods[1]}"
    return {
        "plane": server.state()["plane"],
        "workers": len(everybody),
        "changes": changes,
        "log_likelihoods": likelihoods,
        "tokens_a_second": rates,
    }


def _change(server: Server, ranks: list[int], degree: int, figures: bool) -> dict[str, Any]:
    reply = change(server, ranks, degree)
    times = ("seconds", "longest_step_seconds", "copy_seconds") if figures else ()
    return {name: reply[name] for name in ("kind", "degree", "moves", "bytes_moved", *times)}


def _tokens_a_second(server: Server) -> float:
    started = time.monotonic()
    with ThreadPoolExecutor(STREAMS) as pool:
        list(pool.map(lambda one: server.generate(one, NEW_TOKENS), chat_prompts(STREAMS)))
    return round(STREAMS * NEW_TOKENS / (time.monotonic() - started), 1)
