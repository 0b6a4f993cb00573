"""Prompts of exactly n tokens for a tokenizer: text, which every OpenAI-compatible server takes."""

import random
import re
from typing import Any

from amoeba_sglang.errors import ConfigError

_WORD = re.compile(r"[a-z]{3,12}")
_FEWEST_WORDS, _MOST_WORDS = 100, 4000
# Below the length at which tokenizers of small models warn.
_CHECKED_WORDS = 4000


class PromptMaker:
    """Draws words that are one token each, wherever they stand. The same seed draws the same."""

    def __init__(self, tokenizer: Any, seed: int = 0) -> None:
        """tokenizer: of Hugging Face. ConfigError if it has no such words."""
        self._seed = seed
        self._words = find_words(tokenizer)
        check = random.Random(0).choices(self._words, k=_CHECKED_WORDS)
        # What the tokenizer puts before or after every text.
        self.special_tokens = len(tokenizer("").input_ids)
        counted = len(tokenizer(" ".join(check)).input_ids)
        if counted != len(check) + self.special_tokens:
            raise ConfigError(
                f"the tokenizer makes {counted} tokens of {len(check)} one-token words: prompts of "
                "an exact length cannot be made"
            )

    def make(self, number: int, tokens: int) -> str:
        """The prompt of request `number`, of `tokens` tokens with the special ones."""
        words = max(1, tokens - self.special_tokens)
        return " ".join(random.Random(f"{self._seed} {number}").choices(self._words, k=words))


def find_words(tokenizer: Any) -> list[str]:
    """Words that are one token at the start of a text and after a space."""
    texts = {tokenizer.decode([token]).strip() for token in sorted(tokenizer.get_vocab().values())}
    words = sorted(text for text in texts if _WORD.fullmatch(text))
    if words:
        plain = tokenizer(words, add_special_tokens=False).input_ids
        after = tokenizer([f"a {word}" for word in words], add_special_tokens=False).input_ids
        words = [
            w for w, p, a in zip(words, plain, after, strict=True) if len(p) == 1 and len(a) == 2
        ]
    if len(words) < _FEWEST_WORDS:
        raise ConfigError(f"the tokenizer has only {len(words)} words of one token")
    return words[:: max(1, len(words) // _MOST_WORDS)]
