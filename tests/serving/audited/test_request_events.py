"""What tests and benches are told of the requests of a worker."""

from types import SimpleNamespace

from tests.serving.audited.audit import RequestEvents


class Request:
    def __init__(self):
        self.retraction_count, self.end = 0, ""

    def finished(self):
        return bool(self.end)

    @property
    def finished_reason(self):
        return SimpleNamespace(to_json=lambda: {"type": self.end})


def batch(rows, extends):
    mode = SimpleNamespace(is_extend=lambda: extends)
    return SimpleNamespace(reqs=[None] * rows, forward_mode=mode)


def test_every_step_tells_what_has_happened_since_the_last():
    one, two, three, four = (Request() for _ in range(4))
    events = RequestEvents()
    first = events.since_last_step([one, two, three], batch(3, True))
    assert (first["arrived"], first["prefill"], first["decode"]) == (3, 3, 0)
    one.end, two.end, three.retraction_count = "length", "abort", 1
    second = events.since_last_step([four], batch(1, False))
    assert second == {
        "arrived": 1, "finished": 1, "aborted": 1, "retracted": 1, "prefill": 0, "decode": 1,
    }  # fmt: skip
    # A retracted request that is admitted again holds KV anew.
    third = events.since_last_step([three, four], None)
    assert third == dict.fromkeys(second, 0) | {"arrived": 1}


def test_a_request_that_is_retracted_and_admitted_within_a_step_counts_as_retracted():
    request, events = Request(), RequestEvents()
    events.since_last_step([request], None)
    request.retraction_count = 1
    assert events.since_last_step([request], None)["retracted"] == 1
    assert events.since_last_step([request], None)["retracted"] == 0
