from amoeba_sglang.messages import AdminRequest
from amoeba_sglang.policy import LongRequest, WorkerLoad
from amoeba_sglang.router.state import describe_loads
from tests.router.stand_in import request


def test_requests_that_wait_in_the_router_are_load_too():
    loads = describe_loads(
        [WorkerLoad(2, 1, 80), WorkerLoad()],
        [LongRequest("a", 5000, 2, 0.0), LongRequest("b", 600, 2, 1.0)],
    )
    assert loads == [
        {"dp_rank": 0, "num_reqs": 5, "num_waiting_reqs": 3, "num_tokens": 5680},
        {"dp_rank": 1, "num_reqs": 0, "num_waiting_reqs": 0, "num_tokens": 0},
    ]


def test_a_gateway_hears_of_requests_that_were_just_placed(router):
    router.place(request(prompt=30))
    router.front_end.clear()
    router.handle_admin(AdminRequest(rid="w", kind="load"))
    (reply,) = router.front_end
    assert [load["num_tokens"] for load in reply.body["loads"]] == [30, 0, 0, 0]
