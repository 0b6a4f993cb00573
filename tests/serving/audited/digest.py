"""What KV and weights of a worker at degree 1 are, to compare it with what they are later."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch

from amoeba_sglang.adapters.model.expert_shards import ExpertShards


def digest(layers: Iterable[Any], pool: Any, live: np.ndarray) -> tuple[str, str]:
    """Digests of the KV in the `live` local slots of an ElasticKVPool, and of the weights of its
    LayerShards, all of which are at degree 1."""
    slots = torch.from_numpy(live)
    kv, weights = hashlib.sha256(), hashlib.sha256()
    for blocks, layer in zip(pool.blocks, layers, strict=True):
        assert layer.degree == 1
        for block in blocks:
            kv.update(block[slots].contiguous().view(torch.uint8).numpy())
        for weight in _weights(layer):
            weights.update(weight.data.contiguous().view(torch.uint8).numpy())
    return kv.hexdigest()[:16], weights.hexdigest()[:16]


def _weights(layer: Any) -> Iterator[torch.Tensor]:
    for linear in layer.linears:
        yield linear.weight
    for shards in layer.feed_forward:
        if isinstance(shards, ExpertShards):
            yield from (shards.experts.w13_weight, shards.experts.w2_weight)
