"""How full a worker's pool is: of all that it has now, not only of its own slots."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from sglang.srt.managers.scheduler_components.pool_stats_observer import (
    PoolStats,
    SchedulerPoolStatsObserver,
)


def capacity_tokens(allocator: Any) -> int:
    """Tokens of an ElasticAllocator's own slots, grown and leased ones, without those lent."""
    ledger = allocator.ledger
    return (allocator.num_pages - len(ledger.lent) + ledger.extra.count) * allocator.page_size


def free_extra_tokens(allocator: Any) -> int:
    """Tokens of the grown and leased slots that no request has."""
    extra = allocator.ledger.extra
    return (extra.count - extra.in_use) * allocator.page_size


@dataclass
class ElasticPoolStats(PoolStats):
    """`full_available_size` stays that of the own slots, whose sum upstream checks."""

    extra_available_size: int = 0

    def update_scheduler_stats(self, stats: Any) -> None:
        PoolStats.update_scheduler_stats(self, stats)
        stats.kv_available_tokens += self.extra_available_size


@dataclass(kw_only=True, slots=True, frozen=True)
class ElasticPoolStatsObserver(SchedulerPoolStatsObserver):
    """Upstream's, whose gauges, log lines and load reports all come from here."""

    @classmethod
    def around(cls, upstream: SchedulerPoolStatsObserver) -> ElasticPoolStatsObserver:
        known = {field.name: getattr(upstream, field.name) for field in fields(upstream)}
        return cls(**known)

    def _get_token_info(self) -> PoolStats:
        stats = SchedulerPoolStatsObserver._get_token_info(self)
        allocator = self.token_to_kv_pool_allocator
        capacity, extra = capacity_tokens(allocator), free_extra_tokens(allocator)
        used = capacity - stats.full_available_size - stats.full_evictable_size - extra
        return ElasticPoolStats(
            full_num_used=used,
            full_token_usage=used / capacity if capacity else 0.0,
            full_available_size=stats.full_available_size,
            full_evictable_size=stats.full_evictable_size,
            full_capacity=capacity,
            extra_available_size=extra,
        )
