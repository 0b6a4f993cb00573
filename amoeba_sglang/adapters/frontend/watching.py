"""SGLang's tokenizer manager as those see it who look at the server's page."""

import time
from typing import Any

from fastapi import HTTPException
from sglang.srt.managers.tokenizer_manager import TokenizerManager

from amoeba_sglang.errors import RequestError
from amoeba_sglang.frontend.feed import Feed


class Watching(TokenizerManager):
    """Upstream's, with a feed that is told of every output while it has readers."""

    feed: Feed

    def make_feed(self) -> Feed:
        return Feed(self._ask_view, lambda: {"model": self.config_value("served_model_name")})

    async def _ask_view(self, since: float | None) -> dict[str, Any]:
        try:
            reply = await self.ask_router("view", {"since": since})
        except HTTPException as error:
            raise RequestError(error.status_code, str(error.detail)) from None
        if reply.status != 200:
            raise RequestError(reply.status, reply.body["error"])
        return reply.body

    async def _handle_batch_output(self, recv_obj: Any) -> None:
        if self.feed.watched:
            self._note(recv_obj)
        await super()._handle_batch_output(recv_obj)

    def _note(self, recv_obj: Any) -> None:
        counts = getattr(recv_obj, "completion_tokens", None)
        if counts is None:
            return
        now, ended = time.perf_counter(), recv_obj.finished_reasons
        for rid, tokens, reason in zip(recv_obj.rids, counts, ended, strict=True):
            state = self.rid_to_state.get(rid)
            if state is None:
                continue
            stats = state.time_stats
            created = stats.created_time if stats.first_token_time == 0.0 else None
            self.feed.pulse.note(rid, tokens, now, created=created, finished=reason is not None)
