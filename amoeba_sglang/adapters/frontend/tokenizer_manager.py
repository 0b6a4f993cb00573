"""SGLang's tokenizer manager with a line to the router, early refusals and a quick end."""

import asyncio
import atexit
import logging
import uuid
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from fastapi import BackgroundTasks, HTTPException, Request
from sglang.srt.entrypoints import http_server
from sglang.srt.entrypoints.engine import init_tokenizer_manager
from sglang.srt.managers.io_struct import AbortReq, GenerateReqInput
from sglang.srt.managers.load_snapshot import shm_path_for
from sglang.srt.managers.tokenizer_manager import ServerStatus, SignalHandler, TokenizerManager
from sglang.utils import TypeBasedDispatcher

from amoeba_sglang.adapters.choice import backend_of
from amoeba_sglang.adapters.frontend.control_calls import ControlCalls
from amoeba_sglang.adapters.frontend.request_checks import (
    RequestBounds,
    require_request,
    require_shape,
)
from amoeba_sglang.adapters.frontend.watching import Watching
from amoeba_sglang.adapters.messages import AdminReply, AdminRequest, Fatal, LimitsChanged
from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.control.router.limits import RequestLimits
from amoeba_sglang.errors import RequestError
from amoeba_sglang.frontend.batches import Batches, prompt_id, remember_id
from amoeba_sglang.frontend.ending import end_process, remove_file, watch_children

logger = logging.getLogger(__name__)

_FLUSH_SECONDS = 0.5
_STATE_TIMEOUT_SECONDS = 5.0
# Of SGLang: so long after its stream a request that still runs is aborted.
_ABORT_AFTER_SECONDS = 2.0
# How SGLang begins to say that nothing can follow by the grammar of a request.
_NO_TOKEN = "Grammar accept_token failed"
_HEALTH_PATHS = ("/health", "/health_generate")


class ElasticSignalHandler(SignalHandler):
    """SIGTERM also ends the streams of those who look, which would keep the server; SIGQUIT is how
    SGLang's children and its watchdog say that one of them failed."""

    def sigterm_handler(self, signum: Any = None, frame: Any = None) -> None:
        super().sigterm_handler(signum, frame)
        self.tokenizer_manager.feed.end("the server was told to end")

    def running_phase_sigquit_handler(self, signum: Any = None, frame: Any = None) -> None:
        self.tokenizer_manager.fail("a process of the server died, see the log")


class ElasticTokenizerManager(ControlCalls, Watching, TokenizerManager):
    """Upstream's, plus the line to the router."""

    def __init__(self, server_args: Any, port_args: Any, **kwargs: Any) -> None:
        self.config: AmoebaConfig = server_args._amoeba
        self.backend = backend_of(server_args.device, self.config)
        self.failure: str | None = None
        self.changed_limits: RequestLimits | None = None
        self.pending: dict[str, asyncio.Future[AdminReply]] = {}
        self.batches = Batches()
        self.feed = self.make_feed()
        self.load_file = shm_path_for(port_args.instance_id)
        atexit.register(remove_file, self.load_file)
        super().__init__(server_args, port_args, **kwargs)

    def init_request_dispatcher(self) -> None:
        super().init_request_dispatcher()
        self._result_dispatcher += TypeBasedDispatcher(
            [
                (AdminReply, self.handle_reply),
                (Fatal, lambda message: self.fail(message.reason)),
                (LimitsChanged, self.handle_limits),
            ]
        )
        self.signal_handler_class = ElasticSignalHandler

    def auto_create_handle_loop(self) -> None:
        if self.event_loop is None:
            super().auto_create_handle_loop()
            watch = watch_children(self.config.freeze_timeout_s, self.fail)
            self.asyncio_tasks.add(self.event_loop.create_task(watch))

    async def handle_loop(self) -> None:
        """Upstream's; an exception there would kill this process before clients have answers."""
        try:
            await super().handle_loop()
        except Exception:
            logger.exception("the loop over the workers' messages failed")
            self.fail("the HTTP process hit an exception, see the log")

    def forget_load_file(self) -> None:
        """Unlink the file of load snapshots: all who use it have it open by now.

        Upstream never does, so every server would leave one in /dev/shm.
        """
        self.load_snapshot_reader.read_all()
        remove_file(self.load_file)

    # The router

    async def ask_router(self, kind: str, body: dict[str, Any]) -> AdminReply:
        """Send an AdminRequest and wait for its reply; RequestError 503 or 504 without one."""
        self.auto_create_handle_loop()
        self.require_alive()
        rid = uuid.uuid4().hex
        self.pending[rid] = asyncio.get_running_loop().create_future()
        # A transformation always gets its answer: the router bounds it, or ends the server.
        timeout = None if kind == "transform" else _STATE_TIMEOUT_SECONDS
        try:
            await self._async_dispatch_to_scheduler(AdminRequest(rid=rid, kind=kind, body=body))
            return await asyncio.wait_for(self.pending[rid], timeout)
        except TimeoutError:
            raise RequestError(504, f"the router did not answer within {timeout:g} s") from None
        finally:
            del self.pending[rid]

    def handle_reply(self, reply: AdminReply) -> None:
        future = self.pending.get(reply.rid)
        if future is not None and not future.done():
            future.set_result(reply)

    def handle_limits(self, message: LimitsChanged) -> None:
        self.changed_limits = RequestLimits(**message.limits)

    async def _wait_for_model_update_from_disk(self, obj: Any) -> Any:
        success, message, paused = await super()._wait_for_model_update_from_disk(obj)
        # Every worker refuses for the same reason.
        return success, " | ".join(dict.fromkeys(message.split(" | "))), paused

    # Requests

    @property
    def limits(self) -> RequestLimits:
        """Those of the present layout; until it changes, what the router said when it was ready."""
        if self.changed_limits is not None:
            return self.changed_limits
        return RequestLimits(**http_server.get_global_state().scheduler_info["request_limits"])

    @property
    def bounds(self) -> RequestBounds:
        return RequestBounds(self.model_config.vocab_size, self.config.max_n)

    def generate_request(self, obj: Any, request: Request | None = None) -> AsyncIterator[Any]:
        """Upstream's, for requests that can be taken apart: a wrong count would take this process's
        time and memory for all of its parts before anybody looks at one."""
        if isinstance(obj, GenerateReqInput):
            is_health_check = request is None or request.url.path in _HEALTH_PATHS
            require_shape(obj, self.bounds, is_health_check)
            remember_id(obj)
        return super().generate_request(obj, request)

    def _validate_one_request(self, obj: Any, input_ids: list[int]) -> None:
        """Also refuse what could end a worker, and what no layout can hold; the present one is for
        the router to judge."""
        self.require_alive()
        if isinstance(obj, GenerateReqInput):
            require_request(obj, input_ids, self.bounds)
            remember_id(obj)
            refusal = self.backend.refusal(obj)
            if refusal is None and not self.allow_auto_truncate:
                refusal = self.limits.refusal_by_all(len(input_ids or ()), self.asked_tokens(obj))
            if refusal is not None:
                raise ValueError(refusal)
        super()._validate_one_request(obj, input_ids)

    def _create_tokenized_object(
        self, obj: Any, input_text: Any, input_ids: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Let an output length that the client left open end where the memory does."""
        request = super()._create_tokenized_object(obj, input_text, input_ids, *args, **kwargs)
        if isinstance(obj, GenerateReqInput) and self.asked_tokens(obj) is None:
            params = request.sampling_params
            room = self.limits.open_end(len(input_ids or ()))
            asked = params.max_new_tokens
            if room is not None and (asked is None or asked > room):
                params.max_new_tokens = room
                params.min_new_tokens = min(params.min_new_tokens, room)
        return request

    def asked_tokens(self, obj: GenerateReqInput) -> int | None:
        """The output length that the client, or the server's preferred parameters, ask for."""
        asked = {**(self.preferred_sampling_params or {}), **obj.sampling_params}
        return asked.get("max_new_tokens")

    # Aborts

    async def _handle_batch_request(
        self, obj: Any, request: Any, request_states: dict[str, Any]
    ) -> AsyncIterator[Any]:
        """Upstream's, under all ids by which the client may know the batch."""
        given = prompt_id(obj)
        with self.batches.hold(given if isinstance(given, str) else None, request_states):
            async for response in super()._handle_batch_request(obj, request, request_states):
                yield response

    async def _send_one_request(self, tokenized_obj: Any) -> None:
        await super()._send_one_request(tokenized_obj)
        rid = tokenized_obj.rid
        state = self.rid_to_state.get(rid)
        if state is not None and (state.abort_sent or self.batches.is_aborted(rid)):
            # Workers did not know it yet when it was aborted.
            state.abort_sent = False
            self.abort_request(rid)
        # Between the parts of a large batch others are served, too.
        await asyncio.sleep(0)

    def abort_request(self, rid: str = "", abort_all: bool = False) -> None:
        """Upstream's, of every part of a batch that the client knows by this id."""
        parts = [] if abort_all else self.batches.abort(rid)
        for part in parts or [rid]:
            super().abort_request(part, abort_all)

    async def _handle_abort_finish_reason(
        self, out: dict[str, Any], state: Any, is_stream: bool
    ) -> dict[str, Any] | None:
        """Upstream's, but a grammar that takes no token is an error of its client alone."""
        reason = out["meta_info"]["finish_reason"]
        if str(reason.get("message", "")).startswith(_NO_TOKEN):
            reason["status_code"] = HTTPStatus.BAD_REQUEST
            reason["message"] = f"json_schema, regex, ebnf, structural_tag: {reason['message']}"
        return await super()._handle_abort_finish_reason(out, state, is_stream)

    def create_abort_task(self, obj: GenerateReqInput) -> BackgroundTasks:
        """Upstream's, for the requests of this stream alone: their ids may be in use again."""

        async def abort_leftovers() -> None:
            rids = [obj.rid] if obj.is_single else obj.rid
            states = {rid: self.rid_to_state.get(rid) for rid in rids}
            await asyncio.sleep(_ABORT_AFTER_SECONDS)
            for rid, state in states.items():
                if state is not None and self.rid_to_state.get(rid) is state:
                    self.abort_request(rid)

        tasks = BackgroundTasks()
        tasks.add_task(abort_leftovers)
        return tasks

    # The end

    def require_alive(self) -> None:
        """HTTP 503 once the server has failed."""
        if self.failure is not None:
            raise HTTPException(HTTPStatus.SERVICE_UNAVAILABLE, self.failure)

    def fail(self, reason: str) -> None:
        """Answer every client with 503, then end the process and its tree with code 1."""
        if self.failure is not None:
            return
        self.failure = reason
        logger.error("the server ends: %s", reason)
        self.server_status = ServerStatus.UnHealthy
        if self._subprocess_watchdog is not None:
            self._subprocess_watchdog.stop()
        finished = {
            "type": "abort",
            "message": reason,
            "status_code": HTTPStatus.SERVICE_UNAVAILABLE,
            "err_type": "ServiceUnavailableError",
        }
        for rid in list(self.rid_to_state):
            try:
                self._handle_abort_req(AbortReq(rid=rid, finished_reason=finished))
            except Exception:
                logger.exception("request %s could not be answered", rid)
        for rid, future in self.pending.items():
            if not future.done():
                future.set_result(AdminReply(rid=rid, status=503, body={"error": reason}))
        self.feed.end(reason)
        assert self.event_loop is not None
        self.event_loop.call_later(
            _FLUSH_SECONDS, end_process, self.load_file, self.config.run_directory
        )


def init_elastic_tokenizer_manager(server_args: Any, port_args: Any) -> Any:
    """For `http_server.launch_server(init_tokenizer_manager_func=...)`."""
    return init_tokenizer_manager(server_args, port_args, ElasticTokenizerManager)
