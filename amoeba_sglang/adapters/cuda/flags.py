"""Flags of SGLang that a server on GPUs must have, said before SGLang settles them by itself."""

import argparse
from typing import Any

from amoeba_sglang.adapters.cuda.kinds import Row, choose_row, kind_of
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


def choose_attention(rest: list[str], kind: str) -> tuple[Row, list[str]]:
    """What SGLang's flags choose on this kind of GPU, by what they name or by its default, and the
    flags without the attention's; ConfigError if there is nothing like that."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for field in _ATTENTION:
        parser.add_argument("--" + field.replace("_", "-"), dest=field)
    named, others = parser.parse_known_args(rest)
    parser.add_argument("--dtype", default="auto")
    dtype = parser.parse_known_args(rest)[0].dtype
    row = choose_row(kind, dtype, named.attention_backend)
    for field in _ATTENTION:
        given = getattr(named, field)
        if given not in (None, row.attention):
            flag = "--" + field.replace("_", "-")
            raise ConfigError(
                f"{flag} {given}: prompts and decoding have one attention, here {row.attention}; "
                "leave it out, or name both by --attention-backend"
            )
    return row, others


def say_attention(others: list[str], row: Row) -> list[str]:
    """SGLang's flags with the attention and the page of `row`, unless they name a page already."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--page-size")
    known, _ = parser.parse_known_args(others)
    # SGLang would settle a page of its own choice for some.
    pages = [] if known.page_size else ["--page-size", str(row.pages[0])]
    return [*others, "--attention-backend", row.attention, *pages]


def share_gpu(server_args: Any) -> None:
    """Put all workers on the first GPU; ConfigError unless their pools are of a given size, since
    each would take what is free as its own."""
    if server_args.max_total_tokens is None:
        raise ConfigError(
            "--amoeba-share-gpu: workers cannot tell what of the GPU's memory is theirs; say "
            "--max-total-tokens, as in --max-total-tokens 4096"
        )
    # SGLang's parser takes no 0.
    server_args.gpu_id_step = 0


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
