"""Control requests whose answers upstream takes from the first worker, or does not check at all."""

import logging
import os
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import HTTPException
from sglang.srt.managers import io_struct
from sglang.srt.managers.tokenizer_manager import TokenizerManager
from sglang.srt.runtime_context import get_device

from amoeba_sglang.adapters.messages import WeightsRefused
from amoeba_sglang.errors import RequestError

_ACTIVITIES = ("CPU", "GPU")
_STATE_FIELDS = ("pp_max_micro_batch_size",)
_PROFILE_DIR = "SGLANG_TORCH_PROFILER_DIR"


class ControlCalls(TokenizerManager):
    """Every answer is that of all workers, and what could raise in a worker does not get there."""

    async def get_weights_by_name(
        self, obj: io_struct.GetWeightsByNameReqInput, request: Any = None
    ) -> list[Any]:
        self.auto_create_handle_loop()
        results = await self.get_weights_by_name_communicator(obj)
        if isinstance(results[0], WeightsRefused):
            raise RequestError(HTTPStatus.CONFLICT, results[0].reason)
        found = [result.parameter for result in results]
        if None in found:
            raise RequestError(HTTPStatus.NOT_FOUND, f"name {obj.name!r}: there is no such weight")
        return found

    async def flush_cache(self, timeout_s: float | None = None) -> Any:
        self.auto_create_handle_loop()
        request = io_struct.FlushCacheReqInput(timeout_s=timeout_s)
        results = await self.flush_cache_communicator(request)
        return next((result for result in results if not result.success), results[0])

    async def slow_down(self, obj: io_struct.SlowDownReqInput, request: Any = None) -> None:
        # The watchdog ends a server whose steps take longer than it waits.
        most, asked = get_device().watchdog_timeout / 2, obj.forward_sleep_time
        if asked is not None and asked > most:
            raise RequestError(
                HTTPStatus.BAD_REQUEST,
                f"forward_sleep_time {asked:g}: at most {most:g} s, half of --watchdog-timeout",
            )
        await super().slow_down(obj, request)

    async def set_internal_state(self, obj: io_struct.SetInternalStateReq) -> list[bool]:
        for name in obj.server_args:
            if name not in _STATE_FIELDS:
                raise _bad(f"{name}: only {', '.join(_STATE_FIELDS)} can be set")
        updated = await super().set_internal_state(obj)
        if not all(updated):
            raise _bad(f"{obj.server_args}: out of range, see the log for the limits")
        return updated

    async def start_profile(self, req: io_struct.ProfileReq | None = None) -> Any:
        req = req or io_struct.ProfileReq()
        for activity in req.activities or ():
            if activity not in _ACTIVITIES:
                raise _bad(f"activities: {activity!r} is not one of {', '.join(_ACTIVITIES)}")
        for name in ("profile_id", "profile_prefix"):
            if "/" in (getattr(req, name) or ""):
                raise _bad(f"{name}: must not contain '/', it is part of a file's name")
        if req.profile_by_stage and not req.num_steps:
            raise _bad("profile_by_stage: needs num_steps, the steps of each stage")
        require_writable(req.output_dir or os.environ.get(_PROFILE_DIR, "/tmp"))
        return await super().start_profile(req)

    async def _execute_profile(self, req: io_struct.ProfileReq) -> Any:
        results = await self.profile_communicator(req)
        failed = [result.message for result in results if not result.success]
        if failed:
            raise _bad(" | ".join(dict.fromkeys(failed)))
        return results[0]

    def configure_logging(self, obj: io_struct.ConfigureLoggingReq) -> None:
        level = obj.log_level
        if level is not None and level.upper() not in logging.getLevelNamesMapping():
            raise _bad(f"log_level: {level!r} is no level of Python's logging")
        super().configure_logging(obj)


def require_writable(folder: str) -> None:
    """HTTP 400 if workers could not write traces there, which would end them long after."""
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _bad(f"output_dir {folder}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise _bad(f"output_dir {folder}: not writable")


def _bad(message: str) -> HTTPException:
    return HTTPException(HTTPStatus.BAD_REQUEST, message)
