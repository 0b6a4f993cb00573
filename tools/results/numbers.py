"""Numbers as the tables show them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def fixed(value: float, digits: int = 0) -> str:
    # -0.02 would become "-0.0".
    return f"{round(value, digits) + 0.0:,.{digits}f}"


def signed(value: float, digits: int = 0) -> str:
    rounded = round(value, digits) + 0.0
    return f"{rounded:+,.{digits}f}" if rounded else "0"


def tiny(value: float) -> str:
    """1.1e-6; 0 only where nothing differs at all."""
    return "0" if value == 0 else re.sub(r"e([-+])0", r"e\1", f"{value:.1e}")


def spread(found: Mapping[str, float], digits: int = 0, scale: float = 1.0) -> str:
    """Median (lowest to highest)."""
    low, high = (fixed(found[key] * scale, digits) for key in ("min", "max"))
    return f"{fixed(found['median'] * scale, digits)} ({low} to {high})"


def median_and_most(found: Mapping[str, float], digits: int = 2, scale: float = 1.0) -> str:
    """Median (highest)."""
    return f"{fixed(found['median'] * scale, digits)} ({fixed(found['max'] * scale, digits)})"


def reach(values: Sequence[float], digits: int = 2) -> str:
    """Lowest to highest, or the value if all look the same."""
    low, high = fixed(min(values), digits), fixed(max(values), digits)
    return low if low == high else f"{low} to {high}"
