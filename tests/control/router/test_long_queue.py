"""First come, first served among those of one degree; the oldest of each in turn."""

from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.policy.base import LongRequest
from amoeba_sglang.control.router.long_queue import LongQueue, Waiting
from tests.control.router.values import request


def waiting(rid, degree=2, since=0.0, reason=""):
    return Waiting(request(rid=rid), LongRequest(rid, 150, degree, since), reason)


def filled(*entries):
    queue = LongQueue()
    for entry in entries:
        queue.add(waiting(*entry))
    return queue


def ids(found):
    return [one.long.request_id for one in found]


QUEUE = [("a", 4, 1.0), ("b", 2, 2.0), ("c", 4, 3.0), ("d", 2, 4.0)]


def test_the_heads_are_the_oldest_of_every_degree():
    queue = filled(*QUEUE)
    assert ids(queue.heads()) == ["a", "b"]
    queue.remove(queue.head(4))
    assert ids(queue.heads()) == ["b", "c"]
    assert (len(queue), queue.waiting_for(2), queue.waiting_for(8)) == (3, 2, 0)
    queue.remove(queue.head(4))
    assert queue.head(4) is None and ids(queue.heads()) == ["b"]


def test_those_that_wait_too_long_leave():
    queue = filled(*QUEUE)
    assert sorted(ids(queue.expired(now=10.0, seconds=7.5))) == ["a", "b"]
    assert queue.expired(10.0, 7.5) == [] and len(queue) == 2


def test_a_person_sees_the_oldest_and_why_they_wait():
    queue = filled(*QUEUE, ("e", 2, 0.5, "no room"))
    shown = queue.describe(now=5.25)
    assert shown["count"] == 5
    assert [one["rid"] for one in shown["oldest"]] == ["e", "a", "b", "c", "d"]
    assert shown["oldest"][0] == {
        "rid": "e", "tokens": 150, "degree": 2, "seconds": 4.75, "reason": "no room",
    }  # fmt: skip
    assert shown["oldest"][1]["reason"] == "behind others of its degree"
    many = filled(*((str(n), 2, float(n)) for n in range(40)))
    assert (many.describe(99.0)["count"], len(many.describe(99.0)["oldest"])) == (40, 16)


@given(st.lists(st.sampled_from([2, 4, 8]), max_size=12), st.sets(st.integers(0, 11)))
def test_what_is_taken_comes_in_order_and_the_others_keep_theirs(degrees, chosen):
    queue = filled(*((str(n), degree, float(n)) for n, degree in enumerate(degrees)))
    taken = queue.take(lambda one: int(one.long.request_id) in chosen)
    numbers = [int(rid) for rid in ids(taken)]
    assert numbers == sorted(chosen & set(range(len(degrees))))
    for degree in (2, 4, 8):
        left = [n for n, one in enumerate(degrees) if one == degree and n not in chosen]
        assert [int(one.long.request_id) for one in queue if one.long.degree == degree] == left
