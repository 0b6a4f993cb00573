import pytest

from amoeba_sglang.control.reports import Progress
from amoeba_sglang.control.router.effects import Answer, End, Finished, Order
from amoeba_sglang.control.router.operation import HISTORY_SIZE
from tests.control.router.operations import done, make, only, perform, request, vote


def test_a_merge_runs_through_both_phases():
    operations = make()
    effects = operations.submit(request([0, 1], 2), "w", 10.0)
    assert effects == [Order("prepare", "op", 1, (0, 1), (1, 1), (2, 2))]
    assert operations.running == {
        "operation_id": "op",
        "kind": "merge",
        "ranks": [0, 1],
        "degree": 2,
        "phase": "prepare",
        "boundary": 30,
        "layers": 30,
        "pace": "",
    }
    assert vote(operations, 0, now=10.1) == []
    assert vote(operations, 1, now=10.2) == [Order("commit", "op", 1, (0, 1), (1, 1), (2, 2))]
    assert operations.layout.degrees == (1, 1, 1, 1)
    assert done(operations, 1, now=10.3, longest_step_seconds=0.7) == []
    finished, answer = done(operations, 0, now=10.5)
    assert operations.layout.degrees == (2, 2, 1, 1)
    assert operations.running is None
    record = finished.record.to_json()
    assert answer == Answer("w", 200, finished.record.to_json())
    assert record["kind"] == "merge"
    assert record["outcome"] == "done"
    assert record["seconds"] == pytest.approx(0.5)
    assert record["prepare_seconds"] == pytest.approx(0.2)
    assert record["longest_step_seconds"] == 0.7
    assert record["bytes_moved"] == {"kv": 20, "weights": 2}
    assert record["instances"] == [[0, 1], [2], [3]]
    assert operations.history == [finished.record]


def test_progress_shows_the_boundary_and_gives_the_next_move_its_time():
    """A long prefill between any two moves must not make the operation look stuck."""
    operations = make()
    operations.submit(request([0, 1], 2), "w", 0.0)
    operations.progress(Progress(rank=0, epoch=1, boundary=9, pace="too early"), 1.0)
    assert operations.running["boundary"] == 30
    for rank in (0, 1):
        vote(operations, rank, now=1.0)
    operations.progress(Progress(rank=0, epoch=1, boundary=20, pace="ten at a time"), 100.0)
    operations.progress(Progress(rank=0, epoch=7, boundary=1, pace="of another operation"), 100.0)
    shown = operations.running
    assert (shown["boundary"], shown["pace"]) == (20, "ten at a time")
    assert operations.tick(219.0) == []
    assert "did not finish within 120 s after COMMIT or the last move" in (
        only(operations.tick(221.0), End)[0].reason
    )


def test_mixed_layouts_merge_and_kinds_are_named():
    operations = make()
    perform(operations, [0, 1], 2, "a")
    effects, _ = perform(operations, [0, 1, 2, 3], 4, "b")
    assert effects[0].before == (2, 2, 1, 1)
    assert operations.layout.instances == ((0, 1, 2, 3),)
    effects, _ = perform(operations, [0, 1, 2, 3], 2, "c")
    assert only(effects, Finished)[0].record.kind == "split"
    assert operations.layout.instances == ((0, 1), (2, 3))
    assert [record.kind for record in operations.history] == ["merge", "merge", "split"]


def test_a_refusal_changes_nothing():
    operations = make()
    operations.submit(request([0, 1], 2), "w", 0.0)
    abort, finished, answer = vote(operations, 1, reason="rows do not fit", now=0.1)
    assert (abort.phase, abort.ranks) == ("abort", (0, 1))
    assert answer.status == 409
    assert answer.body["error"] == "rank 1 refuses: rows do not fit"
    assert finished.record.outcome == "refused"
    assert operations.layout.degrees == (1, 1, 1, 1)
    assert vote(operations, 0, now=0.2) == []
    effects, epoch = perform(operations, [0, 1], 2, "again")
    assert epoch == 2
    assert only(effects, Answer)[0].status == 200


def test_an_undone_operation_keeps_the_layout_and_names_every_reason():
    operations = make()
    operations.submit(request([0, 1], 2), "w", 0.0)
    for rank in (0, 1):
        vote(operations, rank, now=1.0)
    assert done(operations, 1, now=2.0, error="no more mappings") == []
    finished, answer = done(operations, 0, now=3.0, error="ranks [1] failed")
    record = finished.record.to_json()
    assert answer == Answer("w", 500, record)
    assert (record["outcome"], record["kind"]) == ("undone", "merge")
    assert "rank 0: ranks [1] failed" in record["error"]
    assert "rank 1: no more mappings" in record["error"]
    assert record["instances"] == [[0], [1], [2], [3]]
    assert "bytes_moved" not in record
    assert operations.layout.degrees == (1, 1, 1, 1)
    (again,) = operations.submit(request([0, 1], 2), "v", 4.0)
    assert again == Answer("v", 500, record)
    effects, _ = perform(operations, [0, 1], 2, "another")
    assert only(effects, Answer)[0].status == 200


def test_silence_before_commit_is_a_504():
    operations = make()
    operations.submit(request([2, 3], 2), "w", 0.0)
    vote(operations, 3, now=1.0)
    assert operations.tick(19.9) == []
    abort, finished, answer = operations.tick(20.0)
    assert abort.phase == "abort"
    assert answer.status == 504
    assert "ranks [2]" in answer.body["error"]
    assert "20 s" in answer.body["error"]
    assert finished.record.outcome == "timeout"
    assert operations.running is None
    assert operations.tick(99.0) == []
    assert vote(operations, 2, now=21.0) == []


def test_silence_after_commit_is_the_end():
    operations = make()
    operations.submit(request([0, 1], 2), "w", 0.0)
    for rank in (0, 1):
        vote(operations, rank, now=5.0)
    done(operations, 0, now=6.0)
    assert operations.tick(124.9) == []
    (stuck,) = operations.tick(125.0)
    assert isinstance(stuck, End)
    assert "ranks [1]" in stuck.reason


def test_a_transform_during_a_transform_is_a_409():
    operations = make()
    operations.submit(request([0, 1], 2, "first"), "w", 0.0)
    (answer,) = operations.submit(request([2, 3], 2, "second"), "v", 0.1)
    assert answer.status == 409
    assert "first" in answer.body["error"]
    (answer,) = operations.submit(request([2, 4], 2, "third"), "v", 0.1)
    assert answer.status == 400
    assert "second" not in [record.operation_id for record in operations.history]


def test_what_only_the_running_operation_forbids_is_a_409():
    operations = make(degree=4)
    operations.submit(request([0, 1, 2, 3], 1, "split"), "w", 0.0)
    (answer,) = operations.submit(request([0, 1], 2, "next"), "v", 0.1)
    assert answer.status == 409


def test_the_same_id_gets_the_same_result():
    operations = make()
    effects, _ = perform(operations, [0, 1], 2)
    first = only(effects, Answer)[0]
    (again,) = operations.submit(request([0, 1], 2, wait=False), "v", 9.0)
    assert again == Answer("v", 200, first.body)
    (other,) = operations.submit(request([0, 1], 1), "v", 9.0)
    assert other.status == 409
    assert "already stands for ranks [0, 1] and degree 2" in other.body["error"]
    assert operations.layout.degrees == (2, 2, 1, 1)


def test_the_same_id_while_it_runs_waits_for_the_same_answer():
    operations = make()
    operations.submit(request([0, 1], 2), "w", 0.0)
    assert operations.submit(request([0, 1], 2), "v", 0.1) == []
    (other,) = operations.submit(request([2, 3], 2), "x", 0.1)
    assert other.status == 409
    (accepted,) = operations.submit(request([0, 1], 2, wait=False), "y", 0.1)
    assert accepted.status == 202
    effects = vote(operations, 0, reason="no", now=0.2)
    assert [answer.waiter for answer in only(effects, Answer)] == ["w", "v"]


def test_not_waiting_is_a_202():
    operations = make()
    order, answer = operations.submit(request([0, 1], 2, wait=False), "w", 0.0)
    assert order.phase == "prepare"
    assert answer.status == 202
    assert answer.body["operation_id"] == "op"
    effects = vote(operations, 0, reason="no", now=0.2)
    assert only(effects, Answer) == []


def test_nothing_to_do_is_a_200():
    operations = make()
    finished, answer = operations.submit(request([0, 1], 1), "w", 0.0)
    assert answer.status == 200
    assert answer.body["outcome"] == "unchanged"
    assert finished.record.to_json() == answer.body


@pytest.mark.parametrize(
    ("ranks", "degree", "field"),
    [
        ([0, 4], 2, "ranks"),
        ([-1, 0], 2, "ranks"),
        ([1, 2], 2, "ranks"),
        ([0, 1, 2], 1, "ranks"),
        ([0, 1], 3, "degree"),
        ([0, 1], 4, "degree"),
        ([0, 1], 0, "degree"),
    ],
)
def test_impossible_layouts_are_a_400(ranks, degree, field):
    operations = make()
    (answer,) = operations.submit(request(ranks, degree), "w", 0.0)
    assert answer.status == 400
    assert field in answer.body["error"]
    assert operations.history == []


def test_a_cut_instance_is_a_400():
    operations = make(degree=4)
    (answer,) = operations.submit(request([0, 1], 1), "w", 0.0)
    assert answer.status == 400


def test_the_history_is_bounded():
    operations = make()
    for count in range(HISTORY_SIZE + 10):
        operations.submit(request([0, 1], 1, f"op-{count}"), "w", 0.0)
    assert len(operations.history) == HISTORY_SIZE
    assert operations.history[-1].operation_id == f"op-{HISTORY_SIZE + 9}"


@pytest.mark.parametrize("wait", [True, False])
def test_an_objection_of_the_router_asks_no_worker_and_is_a_409(wait):
    operations = make()
    change = request([0, 1], 2, wait=wait)
    assert operations.would_reach(change).degrees == (2, 2, 1, 1)
    finished, answer = operations.submit(change, "w", 0.0, "a request needs it")
    assert (answer.waiter, answer.status, answer.body["error"]) == ("w", 409, "a request needs it")
    assert (finished.record.outcome, finished.record.kind) == ("refused", "merge")
    assert operations.running is None
    effects, epoch = perform(operations, [0, 1], 2, "again")
    assert epoch == 1 and only(effects, Answer)[0].status == 200


def test_only_what_would_start_now_reaches_a_layout():
    operations = make()
    assert operations.would_reach(request([1, 2], 2)) is None
    assert operations.would_reach(request([0, 1], 1)) is None
    operations.submit(request([0, 1], 2), "w", 0.0)
    assert operations.would_reach(request([2, 3], 2, "another")) is None
    vote(operations, 0, reason="no")
    assert operations.would_reach(request([0, 1], 2)) is None
    assert operations.would_reach(request([2, 3], 2, "another")).degrees == (1, 1, 2, 2)
