"""The plan of one change of one block, for a person who asks before it happens."""

from __future__ import annotations

from dataclasses import replace

from amoeba_sglang.control.layout.dense_model import DenseModel
from amoeba_sglang.control.layout.partition import Layout, LayoutError
from amoeba_sglang.control.layout.slots import DegreeChain
from amoeba_sglang.control.layout.weight_pages import WeightPages
from amoeba_sglang.errors import ConfigError
from amoeba_sglang.plan.transform_plan import TransformPlan


def parse_change(text: str, chain: DegreeChain) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`"1,1:2,2"` as the degrees of a block's workers before and after; else ConfigError."""
    try:
        before, after = (tuple(map(int, side.split(","))) for side in text.split(":"))
    except ValueError:
        raise ConfigError(f"--transform {text}: not two lists of degrees like 1,1:2,2") from None
    for side in (before, after):
        try:
            Layout(side)
        except LayoutError as error:
            raise ConfigError(f"--transform {text}: {error}") from None
    changes = {(new > old) - (new < old) for old, new in zip(before, after, strict=False)}
    if (
        len(before) != len(after)
        or len(before) not in chain.degrees
        or not {*before, *after} <= set(chain.degrees)
        or len(changes - {0}) != 1
    ):
        raise ConfigError(
            f"--transform {text}: not a merge or a split of one block with the degrees "
            f"{','.join(map(str, chain.degrees))}"
        )
    return before, after


def plan_change(
    model: DenseModel,
    chain: DegreeChain,
    before: tuple[int, ...],
    after: tuple[int, ...],
    page_size: int,
    live_tokens: int,
    layers_per_step: int,
    staging_mib: int,
    kv_page: int,
) -> TransformPlan:
    """`live_tokens` of every worker; `page_size` in bytes; `kv_page`: tokens of a slot. ConfigError
    for what cannot be."""
    model.require_degree(chain.finest)
    for flag, count, least in (
        ("--live-tokens", live_tokens, 0),
        ("--layers-per-step", layers_per_step, 0),
        ("--staging-mib", staging_mib, 1),
    ):
        if count < least:
            raise ConfigError(f"{flag} {count}: must be at least {least}")
    return TransformPlan.build(
        chain,
        range(len(before)),
        before,
        after,
        (live_tokens,) * len(before),
        replace(model.kv_shape, page=kv_page),
        WeightPages(chain, page_size, model.mlp_matrices),
        staging_mib << 20,
        layers_per_step,
    )
