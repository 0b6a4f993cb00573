"""A digest of a worker's KV and weights, over the layers and the pool of a small model."""

import numpy as np
import pytest

from tests.adapters.model.joint_group import Group
from tests.serving.audited.digest import digest


def test_a_digest_sees_live_kv_and_weights_and_nothing_else():
    worker, live = Group((1, 2), page=1).workers[1], np.array([3, 4])
    before = digest(worker.layers, worker.pool, live)
    worker.pool.blocks[2][1][7].add_(1.0)
    for layer in worker.layers:
        layer.switch(2)
    with pytest.raises(AssertionError):
        digest(worker.layers, worker.pool, live)
    for layer in worker.layers:
        layer.switch(1)
    assert digest(worker.layers, worker.pool, live) == before
    worker.pool.blocks[2][1][4].add_(1.0)
    changed = digest(worker.layers, worker.pool, live)
    assert changed[0] != before[0] and changed[1] == before[1]
    worker.layers[3].o.weight.data[0, 0] += 1.0
    assert digest(worker.layers, worker.pool, live)[1] != before[1]
