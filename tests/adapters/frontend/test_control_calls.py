import asyncio
from types import SimpleNamespace

import pytest
from fastapi import HTTPException
from sglang.srt.managers import io_struct

from amoeba_sglang.adapters.frontend import control_calls
from amoeba_sglang.adapters.frontend.control_calls import ControlCalls
from amoeba_sglang.adapters.messages import WeightsRefused
from amoeba_sglang.errors import RequestError


class Calls(ControlCalls):
    """Workers that give the answers they are told to; what they are asked is kept."""

    def __init__(self, *answers):
        self.asked = []

        async def ask(message):
            self.asked.append(message)
            return list(answers)

        self.get_weights_by_name_communicator = self.flush_cache_communicator = ask
        self.set_internal_state_communicator = self.profile_communicator = ask
        self.slow_down_communicator = ask

    def auto_create_handle_loop(self):
        pass


@pytest.fixture(autouse=True)
def watchdog(monkeypatch):
    device = SimpleNamespace(watchdog_timeout=300)
    monkeypatch.setattr(control_calls, "get_device", lambda: device)


def fails(call, error, says):
    with pytest.raises(error) as caught:
        asyncio.run(call)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


def weights(parameter):
    return io_struct.GetWeightsByNameReqOutput(parameter=parameter)


NAME = io_struct.GetWeightsByNameReqInput(name="w")


def test_weights_are_those_of_all_workers():
    calls = Calls(weights([1.0]), weights([1.0]))
    assert asyncio.run(calls.get_weights_by_name(NAME)) == [[1.0], [1.0]]


def test_weights_that_are_refused_or_absent_are_errors():
    refused = WeightsRefused(parameter=None, reason="the degrees are [2, 2]")
    error = fails(Calls(refused, refused).get_weights_by_name(NAME), RequestError, "degrees")
    assert error.status_code == 409
    absent = Calls(weights(None), weights(None)).get_weights_by_name(NAME)
    assert fails(absent, RequestError, "'w'").status_code == 404


def test_a_flush_that_failed_anywhere_has_failed():
    done = io_struct.FlushCacheReqOutput(success=True)
    busy = io_struct.FlushCacheReqOutput(success=False, message="rank 1 is busy")
    assert asyncio.run(Calls(done, busy).flush_cache(2.0)) is busy
    assert asyncio.run(Calls(done, done).flush_cache()).success


def test_a_step_may_not_sleep_into_the_watchdog():
    calls = Calls(io_struct.SlowDownReqOutput())
    slow = io_struct.SlowDownReqInput(forward_sleep_time=1e9)
    assert fails(calls.slow_down(slow), RequestError, "at most 150 s").status_code == 400
    for seconds in (0.1, None):
        asyncio.run(calls.slow_down(io_struct.SlowDownReqInput(forward_sleep_time=seconds)))
    assert len(calls.asked) == 2


def test_an_internal_state_that_is_not_set_everywhere_is_an_error():
    def setting(**fields):
        return io_struct.SetInternalStateReq(server_args=fields)

    done = io_struct.SetInternalStateReqOutput(updated=True)
    refused = io_struct.SetInternalStateReqOutput(updated=False)
    size = setting(pp_max_micro_batch_size=8)
    assert asyncio.run(Calls(done, done).set_internal_state(size)) == [True, True]
    fails(Calls(done, refused).set_internal_state(size), HTTPException, "out of range")
    fails(
        Calls().set_internal_state(setting(max_total_tokens=1)), HTTPException, "max_total_tokens"
    )


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"activities": ["CPU", "RPD"]}, "'RPD'"),
        ({"activities": ["CUDA_PROFILER"]}, "activities"),
        ({"profile_by_stage": True}, "num_steps"),
        ({"profile_prefix": "../../x"}, "profile_prefix"),
        ({"profile_id": "a/b"}, "profile_id"),
        ({"output_dir": "/dev/null/traces"}, "output_dir /dev/null/traces"),
    ],
)
def test_a_profile_that_would_end_a_worker_is_refused(fields, says):
    calls = Calls()
    fails(calls.start_profile(io_struct.ProfileReq(**fields)), HTTPException, says)
    assert calls.asked == []


def test_a_profile_is_started_and_stopped_at_all_workers(tmp_path):
    done = io_struct.ProfileReqOutput(success=True, message="Succeeded")
    failed = io_struct.ProfileReqOutput(success=False, message="not in progress")
    start = io_struct.ProfileReq(output_dir=str(tmp_path / "new"))
    assert asyncio.run(Calls(done, done).start_profile(start)).success
    fails(Calls(done, failed, failed).stop_profile(), HTTPException, "not in progress")


def test_an_unknown_log_level_is_the_client_s_error():
    with pytest.raises(HTTPException) as error:
        Calls().configure_logging(io_struct.ConfigureLoggingReq(log_level="loud"))
    assert error.value.status_code == 400
