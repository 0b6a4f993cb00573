"""Small values that the ranks of a group tell each other while they connect."""

import json
from typing import Any

import torch
import torch.distributed as dist


def gather_values(cpu_group: dist.ProcessGroup, value: Any) -> list[Any]:
    """The ranks' values, which JSON can express, by rank. Collective over the gloo `cpu_group`.

    In place of torch's all_gather_object, which unpickles what comes: gloo's connections are TCP,
    and any process of the host can try to be a rank's peer while they are made.
    """
    text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    size = dist.get_world_size(cpu_group)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(size)]
    dist.all_gather(lengths, torch.tensor([len(text)]), group=cpu_group)
    longest = max(map(int, lengths))
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(text)] = text
    parts = [torch.empty_like(padded) for _ in range(size)]
    dist.all_gather(parts, padded, group=cpu_group)
    return [
        json.loads(bytes(part[: int(length)].tolist()))
        for part, length in zip(parts, lengths, strict=True)
    ]
