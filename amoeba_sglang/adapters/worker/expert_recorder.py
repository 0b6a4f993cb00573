"""Keeps the file of --amoeba-expert-loads."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from amoeba_sglang.adapters.model.expert_shards import ExpertShards
from amoeba_sglang.adapters.model.layer_shards import LayerShards
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.layout.expert_order import ExpertLoads

logger = logging.getLogger(__name__)

_SECONDS = 60.0


class ExpertRecorder:
    """Writes how often each expert was chosen by the requests of one worker, once a minute if any
    was. What the file held at the start counts half."""

    def __init__(
        self, file: str, layers: Sequence[ExpertShards], before: ExpertLoads | None, now: float
    ) -> None:
        self._file, self._layers, self._before = file, layers, before
        self._due, self._written = now + _SECONDS, 0

    @classmethod
    def of_worker(
        cls, config: AmoebaConfig, rank: int, executor: Any, now: float
    ) -> ExpertRecorder | None:
        """That of the first worker, if there is a file; its requests are like those of others."""
        if rank > 0 or config.expert_file is None:
            return None
        layers: Sequence[LayerShards] = executor.layers
        experts = [
            shards
            for layer in layers
            for shards in layer.feed_forward
            if isinstance(shards, ExpertShards)
        ]
        return cls(config.expert_file, experts, config.expert_loads, now)

    def tick(self, now: float) -> None:
        """To be called often."""
        if now < self._due:
            return
        self._due = now + _SECONDS
        total = sum(int(shards.chosen.sum()) for shards in self._layers)
        if total > self._written:
            self._written = total
            self._write()

    @property
    def loads(self) -> ExpertLoads:
        """By now."""
        found = [shards.chosen_by_number for shards in self._layers]
        if self._before is not None:
            found = [
                [new + old // 2 for new, old in zip(*pair, strict=True)]
                for pair in zip(found, self._before.layers, strict=True)
            ]
        return ExpertLoads(tuple(map(tuple, found)))

    def _write(self) -> None:
        beside = f"{self._file}.{os.getpid()}"
        try:
            with open(beside, "w") as out:
                out.write(self.loads.to_json())
            os.replace(beside, self._file)
        except OSError as error:
            logger.error("--amoeba-expert-loads %s: cannot be written: %s", self._file, error)
