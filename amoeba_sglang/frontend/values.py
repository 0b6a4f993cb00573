"""Checks of single values that a client sent."""

import math
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from amoeba_sglang.errors import InvalidRequest, show


def refuse(field: str, value: Any, allowed: str) -> InvalidRequest:
    """The error that says that `field` may not have this value, but what is `allowed`."""
    return InvalidRequest(f"{field} {show(value)}: {allowed}")


def require_range(field: str, value: float, least: float, most: float) -> None:
    """Raise InvalidRequest unless `value` is a number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refuse(field, value, "must be a number")
    if not (least <= value <= most) or not math.isfinite(value):
        raise refuse(field, value, f"must be from {least:g} to {_exact(most)}")


def require_ids(field: str, ids: Iterable[Any], vocabulary: int) -> None:
    """Raise InvalidRequest unless all are token ids of a model of that vocabulary."""
    for one in ids:
        if type(one) is not int or not 0 <= one < vocabulary:
            raise refuse(field, one, f"token ids are integers from 0 to {vocabulary - 1}")


def require_prompt_ids(field: str, ids: Sequence[int], vocabulary: int) -> None:
    """`require_ids` for integers, and fast: prompts are long."""
    if len(ids) and not (0 <= min(ids) and max(ids) < vocabulary):
        require_ids(field, ids, vocabulary)


def require_text(field: str, text: str, most: int | None = None) -> None:
    """Raise InvalidRequest unless `text` is encodable and has at most so many characters."""
    if most is not None and len(text) > most:
        raise refuse(field, text, f"must have at most {most} characters")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise refuse(field, text[error.start], "is half of a surrogate pair, not text") from None


def require_name(field: str, name: str, most: int) -> None:
    """`require_text` for an id or a key, which is not empty and has no control characters."""
    require_text(field, name, most)
    if not name or any(unicodedata.category(char) == "Cc" for char in name):
        raise refuse(
            field, name, f"must be 1 to {most} characters, none of them a control character"
        )


def _exact(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
