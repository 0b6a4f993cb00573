"""A request as the desk sees it."""

from collections.abc import Sequence
from dataclasses import dataclass

from amoeba_sglang.control.policy.base import RequestSize


@dataclass(frozen=True)
class Request:
    """`output_tokens`: the most that the client asks for, None without a limit. `rank`: the worker
    that it asks for, if any. `token_ids`: of the prompt, for finding what is cached of it.
    `payload`: what the adapter sends, which no desk looks into."""

    rid: str
    prompt_tokens: int
    output_tokens: int | None
    rank: int | None = None
    token_ids: Sequence[int] = ()
    payload: object = None

    @property
    def size(self) -> RequestSize:
        return RequestSize(self.prompt_tokens, self.output_tokens)

    @property
    def tokens(self) -> int:
        """Prompt and output; of an output without a limit nothing."""
        return self.prompt_tokens + (self.output_tokens or 0)
