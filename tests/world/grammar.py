"""A grammar backend whose compiling takes virtual time, and whose grammars allow everything."""

from concurrent.futures import Future
from typing import Any

import torch
from sglang.srt.constrained.base_grammar_backend import BaseGrammarObject

from tests.world.stage import STAGE


class Anything(BaseGrammarObject):
    """Allows every token: what matters is where its request waits meanwhile."""

    def accept_token(self, token: int) -> None:
        """Nothing."""

    def rollback(self, k: int) -> None:
        """Nothing."""

    def allocate_vocab_mask(self, vocab_size: int, batch_size: int, device: Any) -> torch.Tensor:
        return torch.zeros(batch_size, 1)

    def fill_vocab_mask(self, vocab_mask: torch.Tensor, idx: int) -> None:
        """Nothing."""

    @staticmethod
    def reset_vocab_mask(vocab_mask: torch.Tensor) -> None:
        """Nothing."""

    @staticmethod
    def move_vocab_mask(vocab_mask: torch.Tensor, device: Any) -> torch.Tensor:
        return vocab_mask

    @staticmethod
    def apply_vocab_mask(logits: torch.Tensor, vocab_mask: torch.Tensor) -> None:
        """Nothing."""


class Compiling(Future):
    """Done at a virtual time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._ready = STAGE.loop.now + seconds

    def done(self) -> bool:
        return self.cancelled() or STAGE.loop.now >= self._ready

    def result(self, timeout: float | None = None) -> Anything:
        return Anything()


class WorldGrammars:
    """In the place of upstream's backend; the regex of a request says how long its compiling takes:
    `s{2500}` for 2.5 s."""

    enable_strict_thinking = False

    def get_request_grammar_key(self, key: tuple[str, str], **kwargs: Any) -> tuple[str, str]:
        return key

    def get_cached_or_future_value(
        self, key: tuple[str, str], require_reasoning: bool
    ) -> tuple[Any, bool]:
        return Compiling(int(key[1][2:-1]) / 1000), False

    def set_cache(self, key: Any, value: Any) -> None:
        """Nothing: each request waits for its own."""

    def reset(self) -> None:
        """Nothing."""
