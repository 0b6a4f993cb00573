"""What a worker notes of a request before upstream takes it."""

from types import SimpleNamespace

import pytest
from sglang.srt.managers.io_struct import AbortReq
from sglang.srt.managers.scheduler import Scheduler

from amoeba_sglang.adapters.worker.request_intake import RequestIntake
from amoeba_sglang.adapters.worker.stop_search import StopSearch
from amoeba_sglang.control.worker.long_report import LongReport
from tests.adapters.model.allocators import make

MOST = make().request_tokens


class Intake(RequestIntake):
    def __init__(self):
        self.token_to_kv_pool_allocator, self.long_report = make(), LongReport()


@pytest.fixture
def passed(monkeypatch):
    """What upstream gets."""
    seen = []
    for name in ("handle_generate_request", "abort_request"):
        monkeypatch.setattr(Scheduler, name, lambda self, req, **kwargs: seen.append((req, kwargs)))
    return seen


@pytest.mark.parametrize(
    ("prompt", "output", "is_long"),
    [(1, MOST - 1, False), (2, MOST - 1, True), (MOST + 1, None, True), (None, MOST, False)],
)
def test_a_long_request_is_noted_before_it_may_be_refused(passed, prompt, output, is_long):
    """One that came and went between two looks stayed in the router's book."""
    intake = Intake()
    request = SimpleNamespace(
        rid="r",
        input_ids=None if prompt is None else [1] * prompt,
        sampling_params=SimpleNamespace(max_new_tokens=output),
    )
    intake.handle_generate_request(request, flag=1)
    assert passed == [(request, {"flag": 1})]
    assert intake.long_report.due == is_long


def test_an_abort_means_the_request_of_that_name_and_no_other(passed):
    """Upstream's means all whose id begins so."""
    abort = AbortReq(rid="a")
    Intake().abort_request(abort)
    assert passed == [(abort, {})] and abort.exact


@pytest.mark.parametrize("patterns", [[], ["a+", "b"]])
def test_stop_expressions_are_searched_with_a_limit(monkeypatch, patterns):
    made = SimpleNamespace(sampling_params=SimpleNamespace(stop_regex_strs=patterns))
    monkeypatch.setattr(
        Scheduler, "_create_generation_req", lambda self, *args: made, raising=False
    )
    req = Intake()._create_generation_req("request")
    assert req is made
    if not patterns:
        assert not hasattr(req, "search_stop_regex")
        return
    assert isinstance(req.search_stop_regex, StopSearch)
    assert req.search_stop_regex("b", "abc").span() == (1, 2)
