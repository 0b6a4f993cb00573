"""What a worker lets a request count on is what the router promises of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from amoeba_sglang.router.limits import Capacity
from amoeba_sglang.shares.ledger import Ledger
from amoeba_sglang.shares.seat import Seat
from amoeba_sglang.worker.elastic_runtime import ElasticRuntime
from amoeba_sglang.worker.scheduler import ElasticScheduler
from tests.model.allocators import CHAIN, SIZE

PAGE, GROWN = 4, {1: 0, 2: 6, 4: 20}
NOTHING = SimpleNamespace(put=lambda slots: None)
CAPACITY = Capacity(SIZE * PAGE, 10**6, {d: slots * PAGE for d, slots in GROWN.items()}, PAGE)


def beyond(index, degree):
    runtime = SimpleNamespace(index=index, grown=GROWN, allocator=SimpleNamespace(num_pages=SIZE))
    return ElasticRuntime.slots_beyond(runtime, degree)


def limit(ledger):
    worker = SimpleNamespace(
        token_to_kv_pool_allocator=SimpleNamespace(ledger=ledger),
        own_slots=SIZE * PAGE, page_size=PAGE, model_config=SimpleNamespace(context_len=10**6),
    )  # fmt: skip
    ElasticScheduler.follow_capacity(worker)
    return worker.max_req_len


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("before", [1, 2, 4])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_worker_in_change_takes_what_is_promised_before_and_after(index, before, after):
    """One of 2 to 4 refused, or shortened, what both layouts hold."""
    promised = [CAPACITY.request_tokens(d, anchor=index % d == 0) for d in (before, after)]
    ledger = Ledger(SIZE)
    ledger.share(Seat(CHAIN, before, index), GROWN[before], beyond(index, before))
    assert limit(ledger) > promised[0]
    ledger.leave(after, min(beyond(index, before), beyond(index, after)), NOTHING)
    assert limit(ledger) > min(promised)
    ledger.share(Seat(CHAIN, after, index), GROWN[after], beyond(index, after))
    assert limit(ledger) > promised[1]
