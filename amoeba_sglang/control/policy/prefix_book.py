"""Which workers are believed to have the beginning of a prompt in their prefix cache."""

from collections import OrderedDict
from collections.abc import Sequence

# Prompts are compared in blocks of so many tokens, and only so many blocks of each.
_BLOCK, _BLOCKS = 512, 32


class PrefixBook:
    """Remembers where the last `size` different blocks went, each with all tokens before it.

    A belief: a worker may have evicted what is remembered here.
    """

    def __init__(self, size: int = 100_000) -> None:
        self._size = size
        self._ranks: OrderedDict[int, tuple[int, ...]] = OrderedDict()

    def find(self, tokens: Sequence[int]) -> dict[int, int]:
        """By rank, how many tokens from the beginning on it has; ranks without any are left out."""
        found: dict[int, int] = {}
        for number, key in enumerate(_keys(tokens), 1):
            ranks = self._ranks.get(key)
            if ranks is None:
                break
            for rank in ranks:
                # Only what has all blocks before this one has this prefix.
                if number == 1 or found.get(rank) == (number - 1) * _BLOCK:
                    found[rank] = number * _BLOCK
        return found

    def add(self, tokens: Sequence[int], rank: int) -> None:
        """A prompt goes to `rank`."""
        for key in _keys(tokens):
            ranks = self._ranks.pop(key, ())
            self._ranks[key] = (*(other for other in ranks if other != rank), rank)
        while len(self._ranks) > self._size:
            self._ranks.popitem(last=False)


def _keys(tokens: Sequence[int]) -> list[int]:
    keys, key = [], 0
    for end in range(_BLOCK, min(len(tokens), _BLOCK * _BLOCKS) + 1, _BLOCK):
        key = hash((key, *tokens[end - _BLOCK : end]))
        keys.append(key)
    return keys
