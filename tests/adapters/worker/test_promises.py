"""What a worker lets a request count on is what the router promises of it."""

from functools import partial
from types import SimpleNamespace

import pytest

from amoeba_sglang.adapters.worker.elastic_runtime import ElasticRuntime
from amoeba_sglang.adapters.worker.scheduler import ElasticScheduler
from amoeba_sglang.control.router.limits import Capacity
from tests.adapters.model.allocators import SIZE

PAGE, GROWN = 4, {1: 0, 2: 6, 4: 20}
CAPACITY = Capacity(SIZE * PAGE, 10**6, {d: slots * PAGE for d, slots in GROWN.items()}, PAGE)


def limit(index, *degrees):
    """What a worker takes while it may count on what is certain at all of these degrees."""
    runtime = SimpleNamespace(index=index, grown=GROWN, allocator=SimpleNamespace(num_pages=SIZE))
    runtime.slots = SimpleNamespace(beyond=0)
    runtime.slots_beyond = partial(ElasticRuntime.slots_beyond, runtime)
    worker = SimpleNamespace(
        runtime=runtime, own_tokens=SIZE * PAGE, page_size=PAGE,
        model_config=SimpleNamespace(context_len=10**6),
    )  # fmt: skip
    ElasticScheduler.follow_capacity(worker, degrees)
    return worker.max_req_len


@pytest.mark.parametrize("index", range(4))
@pytest.mark.parametrize("before", [1, 2, 4])
@pytest.mark.parametrize("after", [1, 2, 4])
def test_a_worker_in_change_takes_what_is_promised_before_and_after(index, before, after):
    """One of 2 to 4 refused, or shortened, what both layouts hold."""
    promised = [CAPACITY.request_tokens(d, anchor=index % d == 0) for d in (before, after)]
    assert limit(index, before) > promised[0]
    assert limit(index, before, after) > min(promised)
    assert limit(index, after) > promised[1]
