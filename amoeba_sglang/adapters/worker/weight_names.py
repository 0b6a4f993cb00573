"""Gives upstream's code that goes by the names of weights the row order that it expects."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_LAYER = re.compile(r"\blayers\.(\d+)\.")


@contextmanager
def restored(layers: Sequence[Any], name: str | None) -> Iterator[None]:
    """The layers, all at degree 1, in upstream's order: that of the weight `name`, or all of them
    without one."""
    chosen = list(layers) if name is None else layer_of(layers, name)
    for layer in chosen:
        layer.restore_upstream_order()
    try:
        yield
    finally:
        for layer in chosen:
            layer.adopt_weights()


def layer_of(layers: Sequence[Any], name: str) -> list[Any]:
    """The layer that has a weight of this name, if one has."""
    found = _LAYER.search(name)
    number = len(layers) if found is None else int(found[1][:9])
    return [layers[number]] if number < len(layers) else []
