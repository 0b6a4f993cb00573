from dataclasses import fields
from types import SimpleNamespace

import pytest
from sglang.srt.managers.load_snapshot import LoadSnapshot
from sglang.srt.managers.scheduler_components.load_inquirer import SchedulerLoadInquirer

from amoeba_sglang.adapters.worker.loads import ElasticLoadInquirer
from tests.adapters.model.allocators import GROWN, SIZE, make


def request(seqlen=10, prefix_len=0, extend_end=10, finished=False):
    return SimpleNamespace(
        seqlen=seqlen, extend_end=extend_end, extend_len=extend_end - prefix_len,
        finished=lambda: finished,
    )  # fmt: skip


def batch(*requests, extend=False):
    mode = SimpleNamespace(is_extend=lambda: extend)
    return SimpleNamespace(reqs=list(requests), forward_mode=mode)


@pytest.fixture
def loads(monkeypatch):
    """What is counted on top of the running batch and of 100 tokens that wait."""

    def count(running, last=None, launched=(), chunked=None):
        upstream = LoadSnapshot(
            timestamp=9.0, num_running_reqs=len(running.reqs), num_waiting_reqs=3,
            num_waiting_uncached_tokens=100, num_total_tokens=500,
        )  # fmt: skip
        monkeypatch.setattr(SchedulerLoadInquirer, "get_loads", lambda self: upstream)
        known = dict.fromkeys(field.name for field in fields(SchedulerLoadInquirer))
        known["token_to_kv_pool_allocator"] = make()
        scheduler = SimpleNamespace(
            running_batch=running, last_batch=last, chunked_req=chunked, received_at=8.0,
            _pending_chunked_abort_req=None,
            result_queue=[(one, None) for one in launched],
        )  # fmt: skip
        found = ElasticLoadInquirer.around(SchedulerLoadInquirer(**known), scheduler).get_loads()
        assert (found.timestamp, found.num_waiting_reqs) == (8.0, 3)
        assert found.max_total_num_tokens == SIZE + GROWN
        return found.num_running_reqs, found.num_waiting_uncached_tokens, found.num_total_tokens

    return count


def test_decoding_workers_are_counted_as_upstream_does(loads):
    rows = batch(request(), request(), request(finished=True))
    assert loads(rows, last=rows, launched=[rows]) == (2, 100, 500)


def test_a_prompt_that_runs_or_has_just_run_is_counted(loads):
    """Neither the running batch nor the waiting queue has it."""
    assert loads(batch(request()), last=batch(request(), extend=True)) == (2, 100, 500)
    running = batch(request(seqlen=30, prefix_len=4, extend_end=30), extend=True)
    assert loads(batch(request()), launched=[running]) == (2, 126, 500)


def test_rows_that_decode_beside_a_chunk_are_counted(loads):
    """Upstream empties the running batch while they run in a mixed one."""
    chunked = request(seqlen=900, prefix_len=0, extend_end=512)
    rows = [request(seqlen=50, prefix_len=49, extend_end=50) for _ in range(3)]
    mixed = batch(chunked, *rows, extend=True)
    assert loads(batch(), launched=[mixed], chunked=chunked) == (4, 103, 888)
