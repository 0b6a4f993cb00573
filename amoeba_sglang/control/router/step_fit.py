"""Fits what a step costs at one degree to the steps that workers have timed (pure numpy)."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from amoeba_sglang.control.policy.throughput import StepCost

# The count of steps by which older ones lose half of their weight.
_HALF_LIFE = 4000.0
# Of the weight of all steps, for the prior: it decides only what they leave open.
_PRIOR_SHARE = 1e-4


class StepFit:
    """Least squares of relative errors over StepCosts without negative fields.

    `prior`: what holds where the steps do not say, None for zero.
    """

    def __init__(self, prior: StepCost | None = None) -> None:
        self._prior = np.zeros(5) if prior is None else _as_array(prior)
        self._products, self._sums = np.zeros((5, 5)), np.zeros(5)
        self.steps = 0.0

    def add(self, steps: int, sums: np.ndarray) -> None:
        """`sums`, float64 [6, 5]: the sum of x x^T over `steps` steps, then that of x, where x are
        the features of a step divided by its seconds."""
        kept = 0.5 ** (steps / _HALF_LIFE)
        self._products = self._products * kept + sums[:-1]
        self._sums = self._sums * kept + sums[-1]
        self.steps = self.steps * kept + steps

    def cost(self) -> StepCost:
        """The best cost; at least one step must have been added."""
        assert self.steps > 0
        # Columns of like size, or the solution would be that of the largest.
        seen = np.sqrt(np.diagonal(self._products))
        scale = np.where(seen > 0, seen, 1 / np.where(self._prior > 0, self._prior, 1.0))
        products = self._products / np.outer(scale, scale) + _PRIOR_SHARE * np.eye(5)
        sums = self._sums / scale + _PRIOR_SHARE * self._prior * scale
        return StepCost(*(float(value) for value in _solve(products, sums) / scale))


def _solve(products: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """The x >= 0 with the least x A x / 2 - b x, A positive definite: of all supports the best."""
    best, least = np.zeros(len(sums)), 0.0
    for count in range(1, len(sums) + 1):
        for support in combinations(range(len(sums)), count):
            chosen = list(support)
            found = np.linalg.solve(products[np.ix_(chosen, chosen)], sums[chosen])
            value = -found @ sums[chosen] / 2
            if value < least and (found >= 0).all():
                best, least = np.zeros(len(sums)), value
                best[chosen] = found
    return best


def _as_array(cost: StepCost) -> np.ndarray:
    return np.array([cost.fixed, cost.row, cost.prefill, cost.context, cost.attention])
