"""Fits what a step costs at one degree to the steps that workers have timed."""

import numpy as np
from scipy.optimize import nnls

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
        # The x >= 0 with the least x A x / 2 - b x, A being positive definite.
        root = np.linalg.cholesky(products)
        found, _ = nnls(root.T, np.linalg.solve(root, sums))
        return StepCost(*(float(value) for value in found / scale))


def _as_array(cost: StepCost) -> np.ndarray:
    return np.array([cost.fixed, cost.row, cost.prefill, cost.context, cost.attention])
