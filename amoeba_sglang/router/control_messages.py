"""Control messages that the router answers, or passes on, depending on what the workers do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.managers.data_parallel_controller import DataParallelController
from sglang.srt.managers.io_struct import (
    ContinueGenerationReqInput,
    FlushCacheReqInput,
    GetWeightsByNameReqInput,
    PauseGenerationReqInput,
    UpdateWeightFromDiskReqInput,
    UpdateWeightFromDiskReqOutput,
)
from sglang.utils import TypeBasedDispatcher

from amoeba_sglang.messages import WeightsRefused
from amoeba_sglang.router import weight_access
from amoeba_sglang.router.cache_flush import CacheFlush


class ControlMessages(DataParallelController):
    """What an ElasticController does with requests that concern no single prompt."""

    def init_dispatcher(self) -> None:
        super().init_dispatcher()
        self._request_dispatcher += TypeBasedDispatcher(
            [
                (UpdateWeightFromDiskReqInput, self.handle_weight_update),
                (GetWeightsByNameReqInput, self.handle_weight_read),
                (FlushCacheReqInput, lambda request: self.cache_flush.start(request)),
                (PauseGenerationReqInput, lambda request: self.handle_pause(request, True)),
                (ContinueGenerationReqInput, lambda request: self.handle_pause(request, False)),
            ]
        )

    def handle_weight_update(self, request: UpdateWeightFromDiskReqInput) -> None:
        """Weights are loaded by name into unsharded layers, so only at degree 1."""
        self.access_weights(
            request,
            "updated",
            lambda reason: UpdateWeightFromDiskReqOutput(success=False, message=reason),
        )

    def handle_weight_read(self, request: GetWeightsByNameReqInput) -> None:
        """A worker of a merged instance has only its shard."""
        self.access_weights(
            request, "read", lambda reason: WeightsRefused(parameter=None, reason=reason)
        )

    def access_weights(self, request: Any, what: str, refuse: Callable[[str], Any]) -> None:
        """Pass a request on to all workers, or answer in the place of each that it is refused."""
        emulated = self.config.emulation is not None
        reason = weight_access.refusal(what, self.operations, emulated)
        if reason is None:
            self.send_control_message(request)
            return
        for _ in range(self.config.workers):
            self.send_to_front_end(refuse(reason))

    def handle_pause(self, request: Any, paused: bool) -> None:
        self.cache_flush.paused = paused
        self.send_control_message(request)

    def why_busy(self, paused: bool) -> str | None:
        """Why caches cannot be flushed, as far as the router knows; None if it knows of nothing."""
        running = self.operations.running
        if running is not None:
            return f"operation {running['operation_id']} is running"
        if paused:
            return None
        if self.placement.waiting:
            return f"{self.placement.waiting} requests wait in the router"
        self.load_book.update(self.load_snapshot_reader.read_all())
        busy = [rank for rank, load in enumerate(self.load_book.loads) if load.requests]
        return f"ranks {busy} are busy" if busy else None

    def make_cache_flush(self) -> CacheFlush:
        return CacheFlush(
            self.config.workers,
            lambda message: self.send_control_message(message),
            self.receive_reports,
            self.send_to_front_end,
            self.why_busy,
            self.clock.now,
        )
