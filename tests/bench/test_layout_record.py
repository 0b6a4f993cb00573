import pytest

from bench.layout_record import LayoutRecord, describe_emulation, dilation_of


def state(degrees, operations=()):
    instances, rank = [], 0
    while rank < len(degrees):
        ranks = list(range(rank, rank + degrees[rank]))
        instances.append({"ranks": ranks, "degree": len(ranks)})
        rank += len(ranks)
    history = [
        {"operation_id": name, "kind": kind, "outcome": outcome, "seconds": seconds}
        for name, kind, outcome, seconds in operations
    ]
    return {"instances": instances, "history": history}


OLD = ("old", "merge", "done", 9.0)
MERGE, SPLIT = ("m", "merge", "done", 0.4), ("s", "split", "done", 0.2)
NO = ("n", "merge", "refused", 0.1)


def test_layouts_and_operations_of_the_replay_are_counted_once():
    record = LayoutRecord(state([1, 1, 1, 1], [OLD]))
    record.add(1.0, state([1, 1, 1, 1], [OLD]))
    record.add(2.0, state([2, 2, 1, 1], [OLD, MERGE]))
    record.add(3.0, state([2, 2, 1, 1], [OLD, MERGE, NO]))
    # The server has forgotten the oldest ones.
    record.add(6.0, state([1, 1, 1, 1], [NO, SPLIT]))
    figures = record.describe(10.0)
    assert figures["layouts"] == [
        [0.0, [1, 1, 1, 1]], [2.0, [2, 2, 1, 1]], [6.0, [1, 1, 1, 1]]
    ]  # fmt: skip
    found = figures["transformations"]
    assert (found["merge"], found["split"], found["refused_or_failed"]) == (1, 1, 1)
    assert found["per_minute"] == pytest.approx(12)
    assert found["seconds_in_them"] == pytest.approx(0.6)
    # Two of four workers are merged for 4 of 10 seconds.
    assert figures["share_of_worker_time_by_degree"] == pytest.approx({"1": 0.8, "2": 0.2})


def test_an_emulated_server_says_so_and_tells_its_own_time():
    said = {"model": "32B", "device": "H100", "cost_model": "roofline", "dilation": 4}
    emulated = {**state([1, 1]), "EMULATED": said}
    assert dilation_of(emulated) == 4.0
    label = describe_emulation(emulated)
    assert label.startswith("EMULATED 32B on H100 (roofline)") and "dilation 4" in label
    assert dilation_of(state([1, 1])) == 1.0
    assert describe_emulation({**state([1, 1]), "EMULATED": None}) is None
    record = LayoutRecord(emulated)
    record.add(1.0, {**state([2, 2], [MERGE]), "EMULATED": {**said, "late_share": 0.1}})
    # Times in its history are the device's already.
    assert record.describe(2.0)["transformations"]["seconds_in_them"] == pytest.approx(0.4)
    assert record.last["EMULATED"]["late_share"] == 0.1


def test_what_comes_after_the_last_token_has_no_share():
    record = LayoutRecord(state([1, 1]))
    record.add(12.0, state([2, 2]))
    assert record.shares(10.0) == {"1": 1.0, "2": 0.0}
