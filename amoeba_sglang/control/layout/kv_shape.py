"""The KV of one model, as far as moving it depends on it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class KVShape:
    """`kv_dtype_bytes`: of one element; `page`: tokens of a slot."""

    layers: int
    kv_heads: int
    head_dim: int
    kv_dtype_bytes: int
    page: int = 1

    def unit_bytes(self, finest: int) -> int:
        """Bytes of one slot's K and V of one unit (kv_heads / finest heads) in one layer."""
        assert self.kv_heads % finest == 0, (self.kv_heads, finest)
        return 2 * self.kv_heads // finest * self.page * self.head_dim * self.kv_dtype_bytes
