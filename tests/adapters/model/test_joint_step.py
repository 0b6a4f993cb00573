"""A joint step gives the logits that every request gets alone, at any degree and boundary."""

from functools import cache

import numpy as np
import pytest
import torch
from sglang.srt.distributed import parallel_state

from tests.adapters.model.joint_group import Group
from tests.adapters.model.joint_model import LAYERS, VOCABULARY


@pytest.fixture(autouse=True)
def one_thread():
    """The products are tiny: threads of torch would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


PAGES = pytest.mark.parametrize("page", [1, 4])
CHANGES = [
    ((1, 2), 1, 2),
    ((1, 4), 1, 4),
    ((1, 2, 4), 2, 4),
]


def prompt(seed, length):
    return np.random.default_rng(seed).integers(0, VOCABULARY, length).tolist()


@cache
def logits_alone(tokens):
    """After the last of these tokens, of one worker that has nothing else to do."""
    [worker] = Group((1,), page=1).workers
    worker.begin(tokens)
    return worker.step_alone()[0]


def check(group, found):
    """Logits by worker are those of each of its requests alone; the likeliest token follows."""
    for worker, logits in zip(group.workers, found, strict=True):
        if not worker.requests:
            assert logits is None
            continue
        assert logits.shape == (len(worker.requests), VOCABULARY)
        for request, row in zip(worker.requests, logits, strict=True):
            expected = logits_alone(tuple(request.tokens))
            torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)
            request.tokens.append(int(row.argmax()))


@PAGES
@pytest.mark.parametrize(("degrees", "lower", "upper"), CHANGES, ids=str)
@pytest.mark.parametrize("boundary", [0, 1, 3, LAYERS])
def test_at_every_boundary(degrees, lower, upper, boundary, page):
    group = Group(degrees, page)
    group.place(boundary, lower, upper)
    first, *_, last = group.workers
    first.begin(prompt(1, 9))
    first.begin(prompt(2, 3))
    check(group, group.step())
    # One-token rows beside a prompt of somebody else, who had none so far.
    last.begin(prompt(3, 6))
    check(group, group.step())
    check(group, group.step())


@PAGES
@pytest.mark.parametrize(
    ("degrees", "layouts"),
    [
        ((1, 2), [(1, 1), (2, 2), (1, 1)]),
        ((1, 2, 4), [(1, 1, 1, 1), (2, 2, 1, 1), (4, 4, 4, 4), (2, 2, 2, 2), (1, 1, 1, 1)]),
    ],
    ids=["of two", "of four"],
)
def test_through_transformations_with_every_layer_a_step(degrees, layouts, page):
    group = Group(degrees, page)
    for index, worker in enumerate(group.workers[:3]):
        worker.begin(prompt(index, 5 + index))
    check(group, group.step())
    for before, after in zip(layouts, layouts[1:], strict=False):
        moving, seen = group.change(before, after), []
        while not moving[0].finished:
            check(group, group.step(moving=moving))
            seen.append(moving[0].boundary.b)
        assert len(set(seen)) == LAYERS, seen
        assert [worker.executor.degree for worker in group.workers] == list(after)
        trim(group)


def gathers(group):
    """How often each worker has put vocabulary shards together."""
    return [worker.circle.gathered for worker in group.workers]


def test_the_head_is_shared_unless_somebody_wants_logits_of_its_prompt():
    group = Group((1, 2), page=1)
    group.place(0, 1, 2)
    for seed, worker in enumerate(group.workers):
        worker.begin(prompt(seed, 5))
    check(group, group.step())
    assert gathers(group) == [1, 1]
    check(group, group.step(scorer=1))
    assert gathers(group) == [1, 1]


def test_a_worker_of_an_instance_must_not_run_alone():
    group = Group((1, 2), page=1)
    group.place(0, 1, 2)
    group.workers[0].begin(prompt(1, 3))
    with pytest.raises(AssertionError, match="must not run alone"):
        group.workers[0].step_alone()


def test_the_model_is_upstream_s_again_after_a_step_that_failed(monkeypatch):
    group = Group((1, 2), page=1)
    group.place(1, 1, 2)
    first = group.workers[0]
    first.begin(prompt(1, 3))
    stack = first.model.model
    before = stack.pp_group, stack.start_layer, stack.end_layer

    def fail(*args):
        raise RuntimeError("no memory")

    monkeypatch.setattr(first.attention, "init_ragged_metadata", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        group.step()
    assert (stack.pp_group, stack.start_layer, stack.end_layer) == before
    # Upstream refuses a second patch of its groups.
    assert not parallel_state._TP_STATE_PATCHED


def trim(group):
    """Let requests begin anew at their prompts, so that they stay short."""
    for worker in group.workers:
        for request in worker.requests:
            del request.tokens[8:]
            request.done = min(request.done, 7)
