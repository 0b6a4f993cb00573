"""What the soak sends, what it takes for right, and what it reads out of a log. No server."""

import json

import pytest

from bench.footprint import trend
from bench.hostile.answers import Choice
from bench.soak import results
from bench.soak.cases import GENERATE, Case, Catalogue
from bench.soak.log import ServerLog
from bench.soak.reference import MARGIN, Reference, References, compare, distance, key
from bench.soak.run import Setting

POOL, MOST = 512, 6000


def make(seed=1, scale=1.0):
    return Catalogue(seed, POOL, MOST).make(scale)


def test_the_same_seed_gives_the_same_cases_of_every_kind():
    assert make() == make() != make(seed=2)
    kinds = {case.kind for case in make()}
    assert kinds == {case.kind for case in make(scale=0.1)}
    assert kinds > {"grammar", "n > 1", "no max_tokens", "log-probabilities", "stop", "sampled"}


def test_long_cases_need_more_than_a_pool_and_short_ones_less():
    for case in make():
        ids, params = case.body.get("input_ids", []), case.body.get("sampling_params", {})
        if case.tokens:
            assert POOL < case.tokens <= MOST
            assert case.tokens == len(ids) + params["max_new_tokens"]
        else:
            assert len(ids) + params.get("max_new_tokens", 128) < POOL - 32


def references(tmp_path, known):
    path = tmp_path / "known.json"
    path.write_text(json.dumps({key(case): vars(one) for case, one in known.items()}))
    return References(path)


def plain(text="a", **more):
    body = {"input_ids": [1], "sampling_params": {"max_new_tokens": 900}}
    return Case("ids", GENERATE, {**body, "note": text}, **more)


def test_cases_whose_greedy_output_is_not_certain_are_left_out(tmp_path):
    close, clear, unknown = plain("close"), plain("clear"), plain("unknown")
    known = {close: Reference([["a", "stop"]], MARGIN / 2), clear: Reference([["a", "stop"]], 1.0)}
    found = references(tmp_path, known)
    assert found.complete([close, clear, unknown]) == [clear]
    assert found.lacks([unknown]) and not found.lacks([close, clear])


def test_a_promised_output_is_ended_by_a_token_of_the_undisturbed_one(tmp_path):
    case = plain(stop_after=3)
    start = Case("ids", GENERATE, {**case.body, "sampling_params": {"max_new_tokens": 3}})
    stopped = case.with_stop(7)
    first = references(tmp_path, {start: Reference([["x", "length"]], 1.0, ids=[5, 6, 7])})
    assert first.lacks([case]) and first.complete([case]) == []
    both = {start: Reference([["x", "length"]], 1.0, ids=[5, 6, 7]), stopped: Reference([], 1.0)}
    second = references(tmp_path, both)
    assert not second.lacks([case]) and second.complete([case]) == [stopped]


RIGHT = Reference([["abcd", "length"]], 1.0)


@pytest.mark.parametrize(
    ("rule", "text", "finish", "was_cut", "good"),
    [
        ("same", "abcd", "length", False, True),
        ("same", "abc", "length", False, False),
        ("same", "abcd", "stop", False, False),
        ("same", "abc", "abort", True, True),
        ("same", "abx", "abort", True, False),
        ("begins", "abc", "length", False, True),
        ("begins", "ab\ufffd", "length", False, True),
        ("begins", "abc", "stop", False, False),
        ("begins", "b", "length", False, False),
        ("ends", "zz", "stop", False, True),
        ("ends", "zz", "abort", False, False),
    ],
)
def test_an_output_is_right_by_the_rule_of_its_case(rule, text, finish, was_cut, good):
    wrong = compare(plain(rule=rule), RIGHT, [Choice(text, finish)], was_cut)
    assert (wrong == "") == good, wrong


def test_all_choices_must_be_there_unless_the_client_ended_them():
    assert "choices" in compare(plain(), RIGHT, [], was_cut=False)
    assert compare(plain(), RIGHT, [], was_cut=True) == ""


def test_an_abort_may_leave_what_stops_an_output_in_it():
    text, finish = RIGHT.outputs[0]
    longer = [Choice(text + " and,", "abort")]
    right = Reference([[text, "stop"]], RIGHT.margin)
    assert compare(plain(), right, longer, was_cut=True) == ""
    assert "in place of" in compare(plain(), right, longer, was_cut=False)
    assert "in place of" in compare(
        plain(), right, [Choice(text + " and" * 9, "abort")], was_cut=True
    )


def test_log_probabilities_are_compared_relative_to_the_largest():
    def reply(last):
        return {
            "meta_info": {
                "input_token_logprobs": [[None, 1], [-4.0, 2]],
                "output_token_logprobs": [[last, 3]],
            }
        }

    right = Reference([], 1.0, scores=[-4.0, -1.0])
    assert distance(right, reply(-1.0)) == 0
    assert distance(right, reply(-1.004)) == pytest.approx(1e-3)
    short = {"meta_info": {"input_token_logprobs": [None], "output_token_logprobs": []}}
    assert distance(right, short) == float("inf")


def record(**more):
    shown = {"kind": "merge", "outcome": "done", "ranks": [0, 1], "degree": 2, **more}
    return f"[2026-11-30 10:00:00] transformation {shown}\n"


LOG = (
    record()
    + record(kind="split", degree=1)
    + record(outcome="refused", error="rank 0 refuses: request x needs up to 9 tokens of KV memory")
    + record(outcome="timeout", error="no vote from ranks [1] within 2 s")
    + '[x DP0 TP0] joint step {"b": 3, "before": [1, 1], "after": [2, 2], "prefill": 2,'
    + ' "decode": 1, "arrived": 1, "finished": 0, "aborted": 0, "retracted": 4}\n'
    + '[x DP0 TP0] slots change hands {"lent": 0, "returned": 5, "relocated": 2}\n'
    + '[x DP0 TP0] slots change hands {"lent": 3, "returned": 0, "relocated": 0}\n'
    + "[x DP1] KV cache pool is full. Retract requests. #retracted_reqs: 2, #new_tokens: 1\n"
    + "[x DP1] KV slots are lent: retracted ['a']\n"
    + "[x DP1 TP0] digest before: 7 slots kv aa weights bb\n"
    + "[x DP1 TP0] digest after: 7 slots kv aa weights bb\n"
)


def test_a_log_is_counted(tmp_path):
    path = tmp_path / "log"
    path.write_text(LOG[:-1])
    log = ServerLog(path)
    log.follow()
    with path.open("a") as file:
        file.write("\n")
    log.follow()
    log.follow()
    assert log.transformations == 2
    expected = {
        "merge done": 1, "split done": 1, "merge refused": 1, "merge timeout": 1,
        "refused: a vote was late": 1, "refused: stranded: a request needs the present layout": 1,
        "slots lent": 3, "slots returned": 5, "slots relocated": 2, "slots relocated: times": 1,
        "retractions": 1, "requests retracted": 2, "retractions since slots are lent": 1,
        "merge of 2 workers to degree 2": 1,
    }  # fmt: skip
    assert {name: log.events[name] for name in expected} == expected
    assert log.table()["merge"]["retracted"] == [0, 0, 0, 4]
    assert log.digests == {1: [("before", 7, "aa", "bb"), ("after", 7, "aa", "bb")]}
    assert log.content_problems() == []
    log.add("[x DP1 TP0] digest before: 7 slots kv aa weights cc\n")
    assert "rank 1" in log.content_problems()[0]


def test_a_trend_has_an_interval_that_covers_a_flat_line_and_not_a_rising_one():
    flat = trend([(x, 100 + (-1) ** x) for x in range(40)], per=100)
    low, high = flat["interval"]
    assert low < 0 < high
    rising = trend([(x, 100 + x / 10 + (-1) ** x) for x in range(40)], per=100)
    assert rising["slope"] == pytest.approx(10, abs=0.5) and rising["interval"][0] > 5
    assert "slope" not in trend([(0, 1.0)], per=1)


def test_runs_of_a_setting_are_summed_up():
    def run(transformations, problems=(), **events):
        return {
            "transformations": transformations, "problems": list(problems), "events": events,
            "requests": {"chat": {"equal": 2}, "ids": {"equal": 1, "aborted": 1}},
            "worst_log_probability": transformations / 1e6,
        }  # fmt: skip

    found = results.sum_up([run(3, lent=1), run(4, ["bad"], lent=2, moved=1)])
    assert (found["runs"], found["with_problems"], found["transformations"]) == (2, 1, 7)
    assert found["requests"] == {"equal": 6, "aborted": 2}
    assert found["events"] == {"lent": 3, "moved": 1}
    assert found["worst_log_probability"] == pytest.approx(4e-6)


def test_only_runs_of_this_version_and_setting_without_a_fault_count(tmp_path):
    file = tmp_path / "soak.json"
    mine, other = Setting(2, "static", 6, "auto"), Setting(4, "static", 6, "auto")
    run = {"transformations": 5, "events": {}, "requests": {}, "worst_log_probability": 0.0}
    assert results.transformations(mine, file) == 0
    for setting, problems in ((mine, []), (mine, ["bad"]), (other, [])):
        results.add(setting, {**run, "problems": problems}, file)
    assert results.transformations(mine, file) == 5
    kept = json.loads(file.read_text())["versions"][results.version()]
    assert set(kept) == {str(mine), str(other)} and len(kept[str(mine)]["runs"]) == 2
