"""Who asks, and what must come back."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from random import Random
from typing import Any

from sglang.srt.managers.io_struct import AbortReq, TokenizedGenerateReqInput
from sglang.srt.sampling.sampling_params import SamplingParams

from amoeba_sglang.control.router.limits import RequestLimits
from tests.world.events import Ask

_TOKENS = range(3, 900)


@dataclass
class Client:
    """One request. `status`: "open", "refused" before anybody had it, "whole", or how else it
    ended; `tokens`: how many have come; `gone`: the client does not wait any more; `excused`: it
    may end without them all, since something that was asked for ends it."""

    ask: Ask
    output: int
    status: str = "open"
    tokens: int = 0
    gone: bool = False
    excused: str = ""
    reason: dict[str, Any] | None = None

    @property
    def open(self) -> bool:
        return self.status == "open"


@dataclass
class Clients:
    """All of a history. `texts`: common beginnings of prompts. `limits`: what the front end knows
    of the layout, which it learns from the router alone."""

    seed: str
    limits: RequestLimits
    by_rid: dict[str, Client] = field(default_factory=dict)

    def prompt(self, ask: Ask) -> list[int]:
        """Tokens: those that are shared, then the request's own."""
        common = Random(f"{self.seed}/text/{ask.text}")
        own = Random(f"{self.seed}/prompt/{ask.rid}")
        shared = [common.choice(_TOKENS) for _ in range(ask.shared)]
        return shared + [own.choice(_TOKENS) for _ in range(ask.prompt - ask.shared)]

    def submit(self, ask: Ask) -> TokenizedGenerateReqInput | None:
        """What the front end sends to the router; None if it refuses, by the limits of all
        layouts."""
        output = ask.output
        if output is None:
            output = self.limits.open_end(ask.prompt)
        client = self.by_rid[ask.rid] = Client(ask, output or 0)
        if output is None or self.limits.refusal_by_all(ask.prompt, ask.output) is not None:
            client.status = "refused"
            return None
        params = SamplingParams(
            max_new_tokens=output,
            ignore_eos=True,
            temperature=0.0,
            regex=None if ask.compiles is None else f"s{{{round(1000 * ask.compiles)}}}",
        )
        params.normalize(None)
        return TokenizedGenerateReqInput(
            rid=ask.rid,
            input_text=None,
            input_ids=array("q", self.prompt(ask)),
            input_embeds=None,
            mm_inputs=None,
            token_type_ids=None,
            sampling_params=params,
            return_logprob=ask.logprobs,
            logprob_start_len=0 if ask.logprobs else -1,
            top_logprobs_num=0,
            token_ids_logprob=None,
            stream=True,
            priority=ask.priority,
            routed_dp_rank=ask.rank,
        )

    def leave(self, rid: str) -> AbortReq | None:
        """The client goes away; None if it has its answer."""
        client = self.by_rid[rid]
        if not client.open:
            return None
        client.gone, client.excused = True, "its client left"
        return AbortReq(rid=rid)

    def excuse_all(self, why: str) -> None:
        for client in self.by_rid.values():
            if client.open:
                client.excused = why

    @property
    def open(self) -> list[Client]:
        return [client for client in self.by_rid.values() if client.open]
