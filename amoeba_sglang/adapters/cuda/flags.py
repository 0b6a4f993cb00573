"""Flags of SGLang that a server on GPUs must have, said before SGLang settles them by itself."""

import argparse
from typing import Any

from amoeba_sglang.adapters.cuda.kinds import ROWS, attention_of, kind_of
from amoeba_sglang.control.layout.reach import Reach, cut_block, find_order
from amoeba_sglang.errors import ConfigError

_ATTENTION = ("attention_backend", "prefill_attention_backend", "decode_attention_backend")


def find_kind() -> str:
    """The kind of this host's GPUs; ConfigError if it has none, or of several kinds."""
    import torch

    cuda = torch.cuda
    if not cuda.is_available():
        raise ConfigError(
            "--device cuda: PyTorch finds no GPU here; use --device cpu, or add "
            "--amoeba-reference-device sm90 to try its calls on the host"
        )
    kinds = [kind_of(cuda.get_device_capability(number)) for number in range(cuda.device_count())]
    if len(set(kinds)) > 1:
        raise ConfigError(
            f"--device cuda: GPUs of kinds {','.join(kinds)} cannot merge; choose those of one "
            "kind by CUDA_VISIBLE_DEVICES"
        )
    return kinds[0]


def say_attention(rest: list[str], kind: str) -> list[str]:
    """SGLang's flags with the attention that joint steps have on this kind of GPU, unless they name
    it already; ConfigError if they name another."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for field in _ATTENTION:
        parser.add_argument("--" + field.replace("_", "-"), dest=field)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--page-size")
    known, _ = parser.parse_known_args(rest)
    attention = attention_of(kind, known.dtype)
    for field in _ATTENTION:
        given = getattr(known, field)
        if given not in (None, attention):
            flag = "--" + field.replace("_", "-")
            raise ConfigError(
                f"{flag} {given}: joint steps on {kind} have {attention}; leave it out"
            )
    said = [] if known.attention_backend else ["--attention-backend", attention]
    # SGLang would settle a page of its own choice for some.
    pages = [] if known.page_size else ["--page-size", str(ROWS[kind][0].pages[0])]
    return [*rest, *said, *pages]


def require_reach(server_args: Any, reach: Reach) -> None:
    """ConfigError unless each worker has a GPU and those of a group reach each other's memory.

    `server_args`: SGLang's, with the size and number of groups; `reach`: of all GPUs that are seen.
    """
    size, groups = server_args.tp_size, server_args.dp_size
    first, step = server_args.base_gpu_id, server_args.gpu_id_step
    numbers = range(first, first + size * groups * step, step)
    if numbers[-1] >= len(reach):
        raise ConfigError(
            f"--tp-size {size} --dp-size {groups}: the workers need GPUs {first} to {numbers[-1]}, "
            f"one each, and {len(reach)} are seen; take fewer workers"
        )
    cut = cut_block([[reach[one][other] for other in numbers] for one in numbers], size)
    if cut is None:
        return
    order = find_order(reach, size, groups)
    remedy = (
        "no order of the GPUs helps, take a smaller --tp-size"
        if order is None
        else f"start it with CUDA_VISIBLE_DEVICES={','.join(map(str, order))}"
    )
    raise ConfigError(
        f"--tp-size {size}: GPUs {numbers[cut[0]]} and {numbers[cut[1]]} of one group do not reach "
        f"each other's memory; {remedy}"
    )
