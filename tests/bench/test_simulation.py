import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.device import load_device
from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.router.effects import Order
from bench.simulation.clock import Clock
from bench.simulation.contenders import contenders
from bench.simulation.instance import Batching, Instance
from bench.simulation.mechanisms import mechanisms
from bench.simulation.requests import Workload, alternate, mix_long, read_trace, workloads_of
from bench.simulation.run import Run
from bench.simulation.search import Search, fluid_bound
from bench.simulation.worker import Request, Worker

DEVICE = load_device("h100-96-32b-tp-loss")
MECHANISMS = mechanisms(DEVICE, (1, 2, 4, 8))
CONTENDERS = contenders(MECHANISMS, 8)
BATCHINGS = (Batching(), Batching(mixed=False, chunk_tokens=2048))


def chats(count, seed=1, long=()):
    rng = random.Random(seed)
    prompts = [120_000 if n in long else rng.randint(10, 3000) for n in range(count)]
    outputs = [rng.randint(1, 300) for _ in range(count)]
    return Workload(
        "chats", tuple(map(float, range(count))), tuple(prompts), tuple(outputs),
        tuple(n in long for n in range(count)), "made up",
    )  # fmt: skip


def play(name, workload, rate, batching=BATCHINGS[0], **shape):
    run = Run(CONTENDERS[name], workload, rate, batching, **shape)
    return run, run.play(endless=True)


COUNT = st.integers(0, 200_000)


@given(st.sampled_from((1, 2, 4, 8)), COUNT, COUNT, st.integers(0, 500), COUNT)
def test_prices_are_the_device_model(degree, prefill, pairs, rows, context):
    expected = DEVICE.step_seconds(degree, prefill, pairs, rows, context)
    found = MECHANISMS["amoeba"].prices[degree].seconds(rows, prefill, context, pairs)
    assert found == pytest.approx(expected, rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 500), st.integers(2, 200)), min_size=1, max_size=8),
    st.lists(st.floats(0.001, 5), max_size=8),
)
def test_runs_of_decode_steps_may_be_cut_anywhere(sizes, cuts):
    """A cut ends with a step, so the requests end when they would have ended without it."""

    def ends(moments):
        worker, found = Worker(0), {}
        instance = Instance(
            [worker], MECHANISMS["amoeba"], BATCHINGS[0], 1, lambda r, at: found.update({r: at})
        )
        for number, (prompt, output) in enumerate(sizes):
            request = Request(number, 0.0, prompt, output, False)
            worker.add(request, 0.0)
        instance.arrive(0.0)
        instance.start_step(0.0)
        left = sorted(moments)
        while instance.busy:
            while left and left[0] <= instance.event:
                instance.arrive(left.pop(0))
            now = instance.event
            instance.end_step()
            instance.start_step(now)
        assert worker.used == worker.context == worker.prompts == worker.to_prefill == 0
        return {request.number: at for request, at in found.items()}

    whole, cut = ends([]), ends(cuts)
    assert len(whole) == len(sizes)
    assert cut == pytest.approx(whole, abs=1e-6)


@pytest.mark.parametrize("batching", BATCHINGS, ids=("mixed", "upstream"))
@pytest.mark.parametrize(
    "name",
    ["amoeba", "round_robin", "least_load", "restart", "seesaw", "kunserve", "loongserve", "1xTP8"],
)
def test_every_request_ends_and_nothing_is_left(name, batching):
    workload = chats(150, long=(20, 21, 60))
    run, outcome = play(name, workload, 10.0, batching)
    assert (outcome.done, outcome.rejected) == (150, 0)
    for request in run.done:
        assert request.arrival < request.first <= request.end
    [host] = run.hosts
    for worker in host.workers:
        assert worker.used == worker.used_long == worker.context == worker.prompts == 0
    assert host.longs == [set()] * 8
    assert bool(host.changes) == (name != "1xTP8")


def test_a_host_merges_for_a_long_request_and_splits_behind_it():
    run, _ = play("amoeba", chats(300, long=(20,)), 5.0)
    (merged, ranks, degree, reason), (split, same, base, why) = run.hosts[0].changes
    assert (len(ranks), degree, same, base) == (2, 2, ranks, 1)
    assert merged < split and "needs" in reason and "no long request" in why


def test_short_traffic_sees_no_transformation_and_loses_nothing():
    run, ours = play("amoeba", chats(600), 20.0)
    _, static = play("8xTP1", chats(600), 20.0)
    assert run.hosts[0].changes == []
    assert ours.completed >= static.completed / 1.02


def test_a_restart_computes_prompts_again_and_costs_a_minute():
    workload = chats(200, long=(50,))
    _, ours = play("amoeba", workload, 10.0)
    _, restart = play("restart", workload, 10.0)
    assert restart.long_ttft_p99 > ours.long_ttft_p99 + 50
    assert restart.token_p99 > ours.token_p99


def test_a_static_layout_rejects_what_it_cannot_hold():
    _, outcome = play("8xTP1", chats(100, long=(5, 6)), 5.0)
    assert (outcome.done, outcome.rejected) == (98, 2)


def test_the_same_seed_gives_the_same_run():
    assert (
        play("amoeba", chats(100, long=(9,)), 10.0)[1]
        == play("amoeba", chats(100, long=(9,)), 10.0)[1]
    )


def test_hosts_share_the_requests():
    run, outcome = play("amoeba", chats(800), 200.0, hosts=10)
    assert outcome.done == 800
    assert max(host.requests for host in run.hosts) < 2 * 800 / 10


def test_the_base_degree_of_a_roofline_with_little_memory_is_above_one():
    found = contenders(mechanisms(load_device("h100-80-32b-roofline"), (1, 2, 4, 8)), 8)
    run = Run(found["amoeba"], chats(50), 5.0, BATCHINGS[0])
    assert run.hosts[0].layout.degrees == (2,) * 8
    assert run.play(endless=True).done == 50


def test_the_search_finds_the_highest_rate_and_the_bound_is_above_it():
    workload = chats(800)
    found = Search(CONTENDERS["4xTP2"], workload, BATCHINGS[0], 8, 1).find(20.0)
    assert found.completes is not None and found.meets_slo is not None
    assert found.meets_slo.rate <= found.completes.rate
    above = Run(CONTENDERS["4xTP2"], workload, found.meets_slo.rate * 1.1, BATCHINGS[0])
    assert not above.play().meets_slo
    statics = {2: CONTENDERS["4xTP2"]}
    assert fluid_bound(statics, workload, BATCHINGS[0], 8)[0] > 0.95 * found.completes.completed


def test_a_search_ends_where_every_rate_passes():
    """Few requests all end within the grace time: the search never came back."""
    found = Search(CONTENDERS["8xTP1"], chats(20), BATCHINGS[0], 8, 1).find(5.0)
    assert found.completes is not None and found.completes.rate > 1000


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "chat.csv"
    lines = [f"{n * 0.5},{100 + n},{n % 7 + 1}" for n in range(900)]
    path.write_text("\n".join(["timestamp_s,input_tokens,output_tokens", *lines]))
    return path


def test_workloads_of_a_trace_are_seeded_and_say_what_they_change(trace):
    plain = read_trace(trace, 500, seed=1)
    assert len(plain) == 500 and plain.prompts[7] == 107 and sum(plain.long) == 0
    assert plain.arrivals[-1] == pytest.approx(500)
    mixed = mix_long(plain, 0.02, 131_072, seed=3, burst=5)
    assert sum(mixed.long) == 10
    assert "bursts of 5 (seed 3)" in mixed.changes
    assert (
        mixed
        == mix_long(plain, 0.02, 131_072, seed=3, burst=5)
        != mix_long(plain, 0.02, 131_072, seed=4, burst=5)
    )
    phases = alternate(plain, 1.0, 100_000, 1, period_s=20.0)
    assert [flag for flag, after in pairwise(phases.long) if flag != after] == [
        False,
        True,
        False,
        True,
    ]
    names = list(workloads_of(trace))
    assert names[:2] == ["chat", "chat 0.1%"] and len(names) == 7


def test_events_happen_in_order():
    clock, seen = Clock(), []
    for at in (3.0, 1.0, 2.0):
        clock.at(at, seen.append)
    while clock.next_time < float("inf"):
        clock.run_next()
    assert seen == [1.0, 2.0, 3.0]


def test_every_policy_is_a_contender():
    assert set(POLICIES) - {"static"} <= set(CONTENDERS)


def test_long_requests_go_to_anchors_and_a_block_that_is_full_refuses_to_merge():
    run, outcome = play("amoeba", chats(300, long=(20, 40)), 10.0)
    [host] = run.hosts
    assert outcome.done == 300
    longs = [request for request in run.done if request.long]
    assert all(request.home % request.degree == 0 and request.degree > 1 for request in longs)
    host.workers[0].used = 10**9
    order = Order("prepare", "op", 1, (0, 1), (1, 1), (2, 2))
    assert "tokens are used" in host._why_not(order)


def test_loads_are_published_once_a_step_and_not_when_a_request_comes():
    run = Run(CONTENDERS["amoeba"], chats(1), 1.0, BATCHINGS[0])
    [host] = run.hosts
    host.arrive(Request(0, 0.0, 1000, 100, False), 0.0)
    [home] = [worker for worker in host.workers if worker.prefilling]
    assert host._published[home.rank].to_prefill == 1000
    host._published.clear()
    host.arrive(Request(1, 0.001, 1000, 100, False), 0.001)
    # The others are idle, so it has begun at one of them.
    assert home.rank not in host._published and len(host._published) == 1
