"""How long a request may be. The router and the HTTP process apply the same numbers."""

from __future__ import annotations

from dataclasses import dataclass

# SGLang keeps these back: a worker serves prompt + output < max_req_len, and
# max_req_input_len = max_req_len - 5, below which a prompt must stay (tp_worker.py, utils.py).
_INPUT_RESERVE = 5


@dataclass(frozen=True)
class RequestLimits:
    """The most tokens of a prompt, and of prompt and output together, that any layout can hold."""

    prompt_tokens: int
    request_tokens: int

    @classmethod
    def of_worker(cls, max_req_input_len: int) -> RequestLimits:
        """The limits of a server whose requests live in one worker's own pool.

        `max_req_input_len`: as the worker reports it, from its pool and the context length.
        """
        return cls(max_req_input_len - 1, max_req_input_len + _INPUT_RESERVE - 1)

    def refusal(self, prompt_tokens: int, output_tokens: int | None) -> str | None:
        """Why no layout can hold the request, with the numbers; None if one can.

        `output_tokens`: None if the client left it open; then only the prompt must fit.
        """
        if prompt_tokens > self.prompt_tokens:
            return (
                f"The prompt has {prompt_tokens} tokens, but no layout of this server can hold "
                f"a prompt of more than {self.prompt_tokens}."
            )
        if output_tokens is not None and prompt_tokens + output_tokens > self.request_tokens:
            return (
                f"The request needs {prompt_tokens + output_tokens} tokens ({prompt_tokens} of "
                f"prompt and {output_tokens} of output), but no layout of this server can hold "
                f"more than {self.request_tokens}."
            )
        return None
