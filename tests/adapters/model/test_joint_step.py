"""A joint step gives the logits that every request gets alone, at any degree and boundary."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

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
        assert len(set(seen)) == LAYERS + 1 or LAYERS, seen
        assert [worker.executor.degree for worker in group.workers] == list(after)
        trim(group)


def trim(group):
    """Let requests begin anew at their prompts, so that they stay short."""
    for worker in group.workers:
        for request in worker.requests:
            del request.tokens[8:]
            request.done = min(request.done, 7)
