from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.router.events import LoadsRead, ViewAsked
from amoeba_sglang.control.router.loads import Snapshot
from amoeba_sglang.control.router.view import leased_tokens
from tests.control.router.values import CAPACITY, LONG, Case


def view(case, since=None):
    [answer] = case.tell(ViewAsked("page", since))
    assert (answer.waiter, answer.status) == ("page", 200)
    return answer.body


def test_the_first_look_says_what_does_not_change_and_the_next_ones_do_not():
    case = Case()
    first = view(case)
    assert first["server"]["instance_tokens"] == {1: 100, 2: 260, 4: 600}
    assert first["server"]["own_tokens"] == 100 and first["server"]["workers"] == 4
    assert "server" not in view(case, first["now"])


def test_only_what_has_ended_since_is_told_again():
    case = Case()
    case.now = 5.0
    case.transform([0, 1], 2, "first")
    case.now = 6.0
    case.finish(0, 1)
    found = view(case)
    [record] = found["ended"]
    assert record["operation_id"] == "first" and record["at"] == 6.0
    assert record["seconds"] == 1.0 and record["instances"] == [[0, 1], [2], [3]]
    assert found["instances"]["degree"] == [2, 1, 1]
    assert view(case, found["now"])["ended"] == []
    case.now = 7.0
    case.transform([2, 3], 2, "second")
    assert view(case, found["now"])["operation"]["ranks"] == [2, 3]
    case.finish(2, 3, epoch=2)
    assert [one["operation_id"] for one in view(case, found["now"])["ended"]] == ["second"]


def test_a_long_request_is_seen_while_it_waits_and_where_it_lives():
    case = Case(POLICIES["amoeba"])
    case.arrive(rid="long", **LONG)
    case.now = 2.0
    [waiting] = view(case)["long"]
    assert (waiting["rid"], waiting["rank"], waiting["seconds"]) == ("long", None, 2.0)
    assert waiting["tokens"] == 150 and waiting["degree"] == 2 and waiting["reason"]
    case.tick()
    case.finish(*case.running["ranks"])
    case.tick()
    assert case.homes("long") == [0]
    case.now = 3.0
    found = view(case)
    [living] = found["long"]
    assert (living["rid"], living["rank"], living["seconds"]) == ("long", 0, 1.0)
    assert (found["long_count"], found["long_waiting"]) == (1, 0) and len(found["decided"]) == 2
    assert view(case, found["now"])["decided"] == []


def test_many_long_requests_are_counted_and_the_oldest_shown():
    case = Case(POLICIES["amoeba"])
    for number in range(40):
        case.now = float(number)
        case.arrive(rid=f"long {number}", **LONG)
    found = view(case)
    assert found["long_count"] == found["long_waiting"] == 40 and len(found["long"]) == 32
    assert found["long"][0]["rid"] == "long 0"


def test_what_an_anchor_has_leased_is_beyond_its_own_and_grown_slots():
    case = Case(layout=(2, 2, 1, 1))
    held = [Snapshot(0, 0.0, 1, used_tokens=170, held_tokens=190), Snapshot(1, 0.0, held_tokens=70)]
    case.tell(LoadsRead([*held, Snapshot(2, 0.0, 2, 1, used_tokens=9, held_tokens=100)]))
    told = view(case)["instances"]
    assert told["leased"] == [30, 0, 0] and told["used"] == [170, 9, 0]
    assert told["running"] == [1, 2, 0] and told["queued"] == [0, 1, 0]
    # A snapshot from before the merge says less than the anchor has.
    assert leased_tokens(CAPACITY, (0, 1), Snapshot(0, 0.0, held_tokens=100)) == 0
