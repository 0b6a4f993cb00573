"""Tokens that all workers of an instance are yet to copy from one slot to another."""

import numpy as np

from amoeba_sglang.control.shares.news import no_slots


class Moves:
    """Noted copies, each tied to its target.

    A source stays in use until its copy is done. Who frees a target, as the prefix cache does when
    it evicts, cancels its copy, which would overwrite what the next owner writes there.
    """

    def __init__(self) -> None:
        self.clear()

    def __len__(self) -> int:
        return len(self.source)

    def clear(self) -> None:
        self.source = self.target = no_slots()

    def note(self, source: np.ndarray, target: np.ndarray) -> None:
        """Let the tokens of the slots `source` be copied to `target`; int64 [n] each."""
        self.source = np.concatenate([self.source, source])
        self.target = np.concatenate([self.target, target])

    def cancel(self, freed: np.ndarray) -> np.ndarray:
        """Drop the copies whose targets are `freed`; returns their sources, which are free now."""
        gone = np.isin(self.target, freed)
        sources = self.source[gone]
        self.source, self.target = self.source[~gone], self.target[~gone]
        return sources

    def finish(self) -> np.ndarray:
        """All copies are done; returns their sources, which are free now."""
        source = self.source
        self.clear()
        return source
