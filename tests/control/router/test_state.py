from amoeba_sglang.control.policy.base import LongRequest, WorkerLoad
from amoeba_sglang.control.router.events import LoadAsked
from amoeba_sglang.control.router.state import describe_loads, late_share
from tests.control.router.values import Case


def test_requests_that_wait_in_the_router_are_load_too():
    loads = describe_loads(
        [WorkerLoad(2, 1, 80), WorkerLoad()],
        [LongRequest("a", 5000, 2, 0.0), LongRequest("b", 600, 2, 1.0)],
    )
    assert loads == [
        {"dp_rank": 0, "num_reqs": 5, "num_waiting_reqs": 3, "num_tokens": 5680},
        {"dp_rank": 1, "num_reqs": 0, "num_waiting_reqs": 0, "num_tokens": 0},
    ]


def test_a_gateway_hears_of_requests_that_were_just_placed():
    case = Case()
    case.arrive(prompt=30)
    [answer] = case.tell(LoadAsked("w"))
    assert [load["num_tokens"] for load in answer.body["loads"]] == [30, 0, 0, 0]


def test_the_worst_device_says_how_late_all_are():
    assert late_share([]) == 0.0
    assert (
        late_share([{"late_seconds": 1, "busy_seconds": 9}, {"late_seconds": 0, "busy_seconds": 5}])
        == 0.1
    )
