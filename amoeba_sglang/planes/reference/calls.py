"""What the REFERENCE of every attention library shares: refusals, signatures, and attention."""

import ast
import inspect
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, Union

import torch

HALF_TYPES = (torch.bfloat16, torch.float16)


CALLS: Counter[str] = Counter()
"""Of this process, by the library's name."""


class KernelRefusal(ValueError):
    """A call that the real kernel would not take."""


def bind(real: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments by name, with the library's defaults; KernelRefusal if it has no such call."""
    try:
        bound = inspect.signature(real).bind(*args, **kwargs)
    except TypeError as error:
        raise KernelRefusal(f"{real.__name__}: {error}") from error
    bound.apply_defaults()
    CALLS[real.__qualname__] += 1
    return bound.arguments


def read_function(file: Path, name: str) -> Callable[..., Any]:
    """A function with the signature that `name` has in a source file, which cannot be imported
    without a GPU."""
    tree = ast.parse(file.read_text())
    found = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    found.decorator_list, found.body = [], [ast.Pass()]
    names = {"torch": torch, "Optional": Optional, "Union": Union}
    module = ast.fix_missing_locations(ast.Module([found], type_ignores=[]))
    exec(compile(module, str(file), "exec"), names)
    return names[name]


def spans_of(indptr: torch.Tensor) -> list[slice]:
    """The part of each row in a vector of all: row r's ends where row r + 1's begins."""
    ends = indptr.tolist()
    return [slice(start, stop) for start, stop in zip(ends, ends[1:], strict=False)]


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, *, causal: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """[new, heads, D] over [tokens, KV heads, D] -> the same shape, and the logarithm to base 2 of
    the sums of the softmax [new, heads]; in float32. Causal: the queries are the last tokens'."""
    group = query.shape[1] // keys.shape[1]
    k, v = (part.float().repeat_interleave(group, 1).transpose(0, 1) for part in (keys, values))
    scores = query.float().transpose(0, 1) @ k.transpose(1, 2) * scale
    if causal:
        later = torch.ones_like(scores[0], dtype=torch.bool).triu(len(keys) - len(query) + 1)
        scores = scores.masked_fill(later, float("-inf"))
    lse = scores.logsumexp(-1)
    out = scores.softmax(-1) @ v
    return out.transpose(0, 1).to(query.dtype), lse.transpose(0, 1) / math.log(2.0)
