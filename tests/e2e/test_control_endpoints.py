"""Every endpoint that concerns workers, at degree 1, merged, and while the layout changes."""

import asyncio
import json
import os
import signal
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from amoeba_sglang.frontend.endpoints import REFUSED, REFUSED_METHODS
from tests.e2e.conftest import split_all, wait_for_tokens
from tests.serving.fault_clients import Ending, request
from tests.serving.load import new_session
from tests.serving.servers import Server

WORKERS = 2
# A frozen worker is one that does not answer in time, and not yet one that is given up after 8 s.
PREPARE_TIMEOUT_S, FREEZE_S = 5, 8
MLP = "model.layers.3.mlp.{}_proj.weight"
PAGE = {"Origin": "http://evil.example"}
# Bodies that upstream would accept.
BODIES = {
    "/open_session": {"capacity_of_str_len": 100},
    "/close_session": {"session_id": "s"},
    "/weights_checker": {"action": "checksum"},
    "/release_memory_occupation": {},
    "/resume_memory_occupation": {},
    "/scale_elastic_ep": {"new_ep_size": 4},
}
SERVED = [
    ("/slow_down", {"forward_sleep_time": None}),
    ("/set_internal_state", {"server_args": {"pp_max_micro_batch_size": 8}}),
    ("/pause_generation", {"mode": "in_place"}),
    ("/continue_generation", {}),
    ("/pause_generation", {"mode": "retract"}),
    ("/continue_generation", {}),
    ("/update_weight_version", {"new_version": "v2", "abort_all_requests": False}),
    ("/configure_logging", {"log_level": "info"}),
    ("/freeze_gc", {}),
    ("/abort_request", {"rid": "nobody"}),
    ("/start_profile", {"activities": ["CPU"], "with_stack": False}),
    ("/stop_profile", {}),
]
WRONG = [
    ("/slow_down", {"forward_sleep_time": 1e9}),
    ("/set_internal_state", {"server_args": {"pp_max_micro_batch_size": 10**6}}),
    ("/set_internal_state", {"server_args": {"unknown": 1}}),
    ("/configure_logging", {"log_level": "loud"}),
    ("/start_profile", {"activities": ["RPD"]}),
    ("/start_profile", {"output_dir": "/dev/null/x"}),
    ("/stop_profile", {}),
    ("/pause_generation", {"mode": "sideways"}),
    ("/generate", {"text": "Hi", "session_params": {"id": "s"}}),
    ("/v1/completions", {"model": "m", "prompt": "Hi", "session_params": {"id": "s"}}),
]


@pytest.fixture(scope="module")
def server(shallow_model, tmp_path_factory):
    with Server(
        "--tp-size", str(WORKERS), "--dtype", "float32", "--max-total-tokens", "1024",
        "--chunked-prefill-size", "128", "--amoeba-policy", "static", "--enable-metrics",
        "--max-queued-requests", "1", "--amoeba-layers-per-step", "1",
        "--amoeba-prepare-timeout-s", str(PREPARE_TIMEOUT_S),
        model=shallow_model,
        module="tests.serving.audited",
        env={
            "SGLANG_TORCH_PROFILER_DIR": str(tmp_path_factory.mktemp("traces")),
            "SGLANG_REQ_WAITING_TIMEOUT": "2",
        },
    ) as running:  # fmt: skip
        yield running


class Layout:
    """Keeps a server at a layout, or changing between two, while endpoints are asked."""

    def __init__(self, server, kind):
        self._server, self._kind = server, kind
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._change)

    def __enter__(self):
        split_all(self._server)
        if self._kind == "merged":
            assert self._server.transform([0, 1], 2)[0] == 200
        if self._kind == "changing":
            self._thread.start()
        return self._server

    def _change(self):
        degree = 2
        while not self._end.is_set():
            self._server.transform([0, 1], degree)
            degree = 3 - degree

    def __exit__(self, *error):
        self._end.set()
        if self._kind == "changing":
            self._thread.join()
        assert self._server.generate("Still here.", 2)["meta_info"]["completion_tokens"] == 2
        split_all(self._server)


@pytest.fixture(params=["degree 1", "merged", "changing"])
def layout(server, request):
    return Layout(server, request.param)


def call(server, path, method, body=None, headers=None):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    request = urllib.request.Request(server.url + path, data, headers, method=method)
    return server._call(request, 30.0)


def test_what_is_not_served_is_refused_by_name(server, layout):
    asked = [(path.replace("{method}", "get"), "POST") for path in REFUSED]
    with layout:
        for path, method in (*asked, *REFUSED_METHODS):
            status, reply = call(server, path, method, BODIES.get(path, {}))
            assert status == 400, (path, reply)
            assert reply["error"]["message"].startswith(f"{method} {path}: ")


def test_what_is_served_is_answered_by_all_workers(server, layout):
    with layout:
        for path, body in SERVED:
            status, reply = server.post(path, body)
            assert status == 200, (path, reply)
        for path, body in WRONG:
            status, reply = server.post(path, body)
            assert status == 400, (path, reply)
        assert len(server.get("/server_info")["internal_states"]) == WORKERS
        assert len(server.get("/v1/loads")["loads"]) == WORKERS
        assert len(server.get("/get_load")) == WORKERS
        assert server.get("/get_hicache_l3_cache_layout")


def test_weights_are_right_or_refused(server, layout, shallow_model):
    file = load_file(f"{shallow_model}/model.safetensors")
    seen = set()
    with layout:
        for part in ("gate", "up", "down") * 3:
            name = MLP.format(part)
            status, reply = server.post("/get_weights_by_name", {"name": name, "truncate_size": 9})
            seen.add(status)
            if status == 200:
                right = file[name][:9].float()
                assert len(reply) == WORKERS
                assert all(torch.equal(torch.tensor(one), right) for one in reply)
            else:
                assert status == 409, reply
                assert "can only be read while every instance" in reply["error"]["message"]
    if layout._kind != "changing":
        assert seen == {200 if layout._kind == "degree 1" else 409}
    status, reply = server.post("/get_weights_by_name", {"name": "no.such.weight"})
    assert status == 404, reply


def cached(server, rank):
    reply = server.generate(f"The memory of worker {rank}. " * 20, 1, routed_dp_rank=rank)
    return reply["meta_info"]["cached_tokens"]


@pytest.mark.parametrize("degree", [1, 2])
def test_a_busy_worker_keeps_all_caches_and_is_named(server, degree):
    with Layout(server, "merged" if degree == 2 else "degree 1"):
        for rank in range(WORKERS):
            cached(server, rank)
        with ThreadPoolExecutor(1) as pool:
            task = pool.submit(server.generate, "Go on.", 150, routed_dp_rank=1)
            while not server.get("/v1/loads")["loads"][1]["num_running_reqs"]:
                assert not task.done()
            status, reply = server.post("/flush_cache", {})
            assert (status, "ranks [1] are busy" in reply) == (400, True)
            status, _ = server.post("/flush_cache?timeout=60", {})
            # The worker is done; its last tokens may still be on their way to the client.
            assert status == 200 and task.result()["meta_info"]["completion_tokens"] == 150
        assert [cached(server, rank) for rank in range(WORKERS)] == [0, 0]
        assert all(cached(server, rank) > 50 for rank in range(WORKERS))
        assert server.post("/flush_cache", {})[0] == 200
        assert [cached(server, rank) for rank in range(WORKERS)] == [0, 0]


def test_pages_of_other_sites_are_kept_from_control_endpoints(server):
    for path in ("/flush_cache", "/amoeba/transform", "/pause_generation", "/v1/loads"):
        for method in ("GET", "POST", "OPTIONS"):
            status, reply = call(server, path, method, headers=PAGE)
            assert status == 403, (path, method)
            assert "closed to web pages" in reply["error"]["message"]
    status, _ = call(server, "/flush_cache", "GET", headers={"Sec-Fetch-Site": "cross-site"})
    assert status == 403
    body = {"text": "Hi", "sampling_params": {"max_new_tokens": 1}}
    assert call(server, "/generate", "POST", body, PAGE)[0] == 200
    own = {"Origin": server.url, "Sec-Fetch-Site": "same-origin"}
    assert call(server, "/flush_cache", "POST", headers=own)[0] == 200


def test_any_body_of_a_transform_is_a_client_error(server):
    for text in (b"[" * 100_000, b"[" * 60_000, b'{"ranks": [0], "degree": 1' + b"0" * 5000 + b"}"):
        request = urllib.request.Request(server.url + "/amoeba/transform", text, method="POST")
        status, reply = server._call(request, 30.0)
        assert status == 400
        assert "\n" not in reply["error"]


def test_limits_of_waiting_hold_in_the_router(server):
    """The server's own would wait for the end of the transformation."""
    with Layout(server, "degree 1"):
        server.post("/slow_down", {"forward_sleep_time": 1.0})
        with ThreadPoolExecutor(8) as pool:
            busy = pool.submit(server.generate, "Go on.", 8, routed_dp_rank=0)
            wait_for_tokens(server, busy)
            change = pool.submit(server.transform, [0, 1], 2)
            while not server.state()["operation"]:
                assert not change.done()
            long = {"input_ids": [5] * 1100, "sampling_params": {"max_new_tokens": 8}}
            tasks = [pool.submit(server.post, "/generate", long) for _ in range(3)]
            replies = [task.result() for task in tasks]
            assert not change.done()
            assert change.result()[0] == 200
            busy.result()
        server.post("/slow_down", {"forward_sleep_time": None})
    refused = [json.dumps(reply) for status, reply in replies if status == 503]
    assert sum("request queue is full" in reply for reply in refused) == 2, replies
    assert sum("waiting timeout reached" in reply for reply in refused) == 1, replies


def test_a_freeze_during_prepare_changes_nothing(server):
    with Layout(server, "degree 1"):
        endings = asyncio.run(freeze_during_prepare(server, server.workers()[1].pid))
        assert [(e.name, e.error) for e in endings] == [(e.name, "") for e in endings]
        # The late vote for the abandoned operation must not disturb the next one.
        status, reply = server.transform([0, 1], 2)
        assert status == 200, reply


async def freeze_during_prepare(server, pid):
    """Streams on both ranks go on around a PREPARE that the frozen rank 1 cannot answer."""
    async with new_session() as session:
        endings = [Ending(f"stream-{rank}", asyncio.Event()) for rank in range(WORKERS)]
        tasks = [
            asyncio.create_task(request(session, server, ending, rank, True, tokens=300))
            for rank, ending in enumerate(endings)
        ]
        await asyncio.wait_for(asyncio.gather(*(e.started.wait() for e in endings)), 60)
        os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            status, reply = await asyncio.to_thread(server.transform, [0, 1], 2)
            waited = time.monotonic() - started
            state = await asyncio.to_thread(server.state)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert status == 504, reply
        assert f"no vote from ranks [1] within {PREPARE_TIMEOUT_S} s" in reply["error"]
        assert PREPARE_TIMEOUT_S - 0.1 < waited < FREEZE_S
        assert [i["degree"] for i in state["instances"]] == [1, 1]
        assert state["operation"] is None
        return await asyncio.wait_for(asyncio.gather(*tasks), 120)
