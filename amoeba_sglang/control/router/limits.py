"""How long a request may be. The router and the HTTP process apply the same numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from amoeba_sglang.control.layout.partition import Layout

# SGLang keeps these back: a worker serves prompt + output < max_req_len and a prompt of less than
# max_req_len - 5, where max_req_len is one below both its slots and the context (tp_worker.py).
_REQUEST_RESERVE = 2
_PROMPT_RESERVE = 5
# Of KV pages: one that SGLang keeps free, and what rounding a prompt up to whole pages may take.
_RESERVED_PAGES = 2


@dataclass(frozen=True)
class Capacity:
    """What the workers can hold, in tokens.

    own_tokens: of one worker's own pool. context_tokens: of the model. grown_tokens: by degree what
    an instance has beyond its workers' own pools. Its first worker, the anchor, has all of it, and
    leases what the others have while it needs that. page_tokens: of a KV page (`--page-size`).
    """

    own_tokens: int
    context_tokens: int
    grown_tokens: Mapping[int, int]
    page_tokens: int

    def instance_tokens(self, degree: int) -> int:
        """Tokens of an instance."""
        return degree * self.own_tokens + self.grown_tokens[degree]

    def request_tokens(self, degree: int, anchor: bool) -> int:
        """Prompt and output of the longest request that one worker of an instance can serve."""
        tokens = self.instance_tokens(degree) if anchor else self.own_tokens
        kept = _RESERVED_PAGES * self.page_tokens
        return min(self.context_tokens - _REQUEST_RESERVE, tokens - kept)

    def needed_degree(self, prompt_tokens: int, output_tokens: int | None) -> int | None:
        """The smallest degree whose anchor can hold the request; None if none can."""
        return next(
            (
                degree
                for degree in sorted(self.grown_tokens)
                if fits(prompt_tokens, output_tokens, self.request_tokens(degree, anchor=True))
            ),
            None,
        )

    def by_rank(self, layout: Layout) -> tuple[int, ...]:
        """`request_tokens` of every rank of a layout."""
        return tuple(
            self.request_tokens(degree, anchor=rank % degree == 0)
            for rank, degree in enumerate(layout.degrees)
        )

    def promised(self, layout: Layout, target: Layout) -> tuple[int, ...]:
        """Of every rank, the tokens of the longest request that is accepted for it at any moment of
        the change from `layout` to `target`: it must fit before and after. Equal ones: no change.
        """
        return tuple(map(min, self.by_rank(layout), self.by_rank(target)))


@dataclass(frozen=True)
class RequestLimits:
    """The most tokens of prompt and output together that a request may have.

    `own_tokens`: at any worker in any layout; `request_tokens`: at some worker of the present
    layout, or of any if requests may wait for another; `largest_tokens`: in the layout that holds
    most. `ladder`: where a request of an open end may end, lowest first.
    """

    own_tokens: int
    request_tokens: int
    largest_tokens: int
    ladder: Sequence[int]

    @classmethod
    def of_layout(cls, capacity: Capacity, layout: Layout) -> RequestLimits:
        """The limits while `layout` is the one that runs and stays."""
        by_degree = cls.of_all_layouts(capacity)
        most = max(capacity.by_rank(layout))
        return replace(by_degree, request_tokens=most, ladder=(by_degree.own_tokens, most))

    @classmethod
    def of_all_layouts(cls, capacity: Capacity) -> RequestLimits:
        """The limits while requests may wait for a layout that holds them."""
        ladder = tuple(
            capacity.request_tokens(d, anchor=True) for d in sorted(capacity.grown_tokens)
        )
        return cls(ladder[0], ladder[-1], ladder[-1], ladder)

    def refusal(self, prompt_tokens: int, output_tokens: int | None) -> str | None:
        """Why the request cannot be served now, with the numbers; None if it can.

        `output_tokens`: None if the client left it open; then only the prompt must fit.
        """
        if fits(prompt_tokens, output_tokens, self.request_tokens):
            return None
        refusal = self.refusal_by_all(prompt_tokens, output_tokens)
        if refusal is not None:
            return refusal
        what, most = _misfit(prompt_tokens, output_tokens, self.request_tokens)
        return (
            f"{what}, but the present layout can hold at most {most}. A layout of a higher degree "
            f"holds requests of up to {self.largest_tokens}: merge instances with POST "
            "/amoeba/transform."
        )

    def refusal_by_all(self, prompt_tokens: int, output_tokens: int | None) -> str | None:
        """Why no layout can hold the request, with the numbers; None if one can."""
        if fits(prompt_tokens, output_tokens, self.largest_tokens):
            return None
        what, most = _misfit(prompt_tokens, output_tokens, self.largest_tokens)
        return f"{what}, but no layout of this server can hold more than {most}."

    def open_end(self, prompt_tokens: int) -> int | None:
        """The most output tokens for a request that names none; None if its prompt cannot be held.

        As many as the lowest rung of the ladder leaves that holds the prompt: they alone are no
        reason for grown slots, or for a higher degree.
        """
        for most in self.ladder:
            if fits(prompt_tokens, None, most):
                return most - prompt_tokens
        return None


def rank_refusal(
    rank: int, prompt_tokens: int, output_tokens: int | None, request_tokens: int
) -> str:
    """Why the worker that a request asks for cannot hold it, with the numbers."""
    what, most = _misfit(prompt_tokens, output_tokens, request_tokens)
    return f"{what}, but routed_dp_rank {rank} can hold at most {most} in this layout."


def _misfit(prompt_tokens: int, output_tokens: int | None, request_tokens: int) -> tuple[str, int]:
    """What of a request that does not fit is too large, and how many tokens of that would."""
    most = request_tokens - _PROMPT_RESERVE
    if prompt_tokens > most:
        return f"The prompt has {prompt_tokens} tokens", most
    output = output_tokens or 0
    return (
        f"The request needs {prompt_tokens + output} tokens ({prompt_tokens} of prompt and "
        f"{output} of output, max_new_tokens)",
        request_tokens,
    )


def fits(prompt_tokens: int, output_tokens: int | None, request_tokens: int) -> bool:
    """Whether a request can be served where at most `request_tokens` can be."""
    return (
        prompt_tokens <= request_tokens - _PROMPT_RESERVE
        and prompt_tokens + (output_tokens or 0) <= request_tokens
    )
