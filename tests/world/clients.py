"""Who asks, and what must come back."""

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
    """One request, of several maybe of one Ask. `status`: "open", "refused" before anybody had it,
    "whole", or how else it ended; `tokens`: how many have come; `excused`: it may end without them
    all, since something that was asked for ends it."""

    ask: Ask
    rid: str
    output: int
    status: str = "open"
    tokens: int = 0
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

    def admits(self, ask: Ask) -> bool:
        """Whether the front end lets a request pass, by the limits of all layouts."""
        has_end = ask.output is not None or self.limits.open_end(ask.prompt) is not None
        return has_end and self.limits.refusal_by_all(ask.prompt, ask.output) is None

    def submit(self, ask: Ask, rid: str, output: int | None) -> TokenizedGenerateReqInput:
        """What the front end sends to the router. `output`: tokens instead of those asked for."""
        if output is None:
            output = ask.output if ask.output is not None else self.limits.open_end(ask.prompt)
        self.by_rid[rid] = Client(ask, rid, output or 0)
        params = SamplingParams(
            max_new_tokens=output,
            ignore_eos=not ask.may_stop,
            temperature=0.0,
            regex=None if ask.compiles is None else f"s{{{round(1000 * ask.compiles)}}}",
        )
        params.normalize(None)
        return TokenizedGenerateReqInput(
            rid=rid,
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

    def leave(self, rid: str) -> list[AbortReq]:
        """The client goes away: what its front end sends for all that has no answer yet."""
        left = [one for one in self.by_rid.values() if one.ask.rid == rid and one.open]
        for client in left:
            client.excused = "its client left"
        return [AbortReq(rid=client.rid) for client in left]

    def excuse_all(self, why: str) -> None:
        for client in self.by_rid.values():
            if client.open:
                client.excused = why

    @property
    def open(self) -> list[Client]:
        return [client for client in self.by_rid.values() if client.open]

    @property
    def any_open(self) -> bool:
        return any(client.open for client in self.by_rid.values())
