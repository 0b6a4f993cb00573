"""What counts as a right answer to a hostile request."""

import dataclasses
import json

import pytest

from bench.hostile.answers import UnreadableError, read_choices
from bench.hostile.beside import Memory, Problem, Streams
from bench.hostile.cases import Case, Expect, Mutation, Value
from bench.hostile.oracle import Reply, count_choices, judge

JSON = "application/json"


def case(expect=Expect.EITHER, same=False, sent=None, path=("sampling_params", "top_p")):
    mutation = Mutation(path, Value("at", 1, expect, same), tuple(reversed(path)))
    return Case(
        0, "POST", "/generate", "/generate", {}, b"", (mutation,), {}, sent or {"text": "a"}
    )


def generated(text="x", finish="length", tokens=1):
    return {
        "text": text,
        "meta_info": {"finish_reason": {"type": finish}, "completion_tokens": tokens},
    }


def reply(body, status=200, kind=JSON):
    return Reply(status, kind, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_a_refusal_must_name_the_field():
    assert judge(case(), reply({"error": "top_p must be in (0, 1]"}, 400), None).failure == ""
    unnamed = judge(case(), reply({"error": "bad request"}, 400), None)
    assert unnamed.failure == "refused without a name"
    assert judge(case(), reply({"error": "see --enable-lora"}, 400), None).failure == ""


@pytest.mark.parametrize(("tokens", "failure"), [(9, ""), (10**6, "refused without a name")])
def test_the_prompt_that_a_route_makes_of_a_body_may_be_named_by_its_length(tokens, failure):
    long = dataclasses.replace(case(), body=b'{"a": "b c d e f g h i j"}')
    refusal = reply({"error": f"The prompt has {tokens} tokens"}, 400)
    assert judge(long, refusal, None).failure == failure


def test_a_short_name_must_be_a_word():
    short = case(path=("n",))
    assert judge(short, reply({"error": "no number"}, 400), None).failure
    assert not judge(short, reply({"error": "n must be at most 128"}, 400), None).failure


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_error_is_none(status):
    assert judge(case(), reply({}, status), None).failure == f"status {status}"


def test_no_answer_is_a_failure():
    assert judge(case(), Reply(0, error="no answer within 60 s"), None).failure == "no answer"


def test_what_must_be_refused_is_not_to_be_served_and_the_other_way_round():
    assert judge(case(Expect.REFUSE), reply(generated()), None).failure == "accepted"
    refused = judge(case(Expect.SERVE), reply({"error": "top_p"}, 400), None)
    assert refused.failure == "refused though valid"


@pytest.mark.parametrize(
    ("phase", "served", "refused"),
    [("degree 1", "accepted", ""), ("merged", "", "refused though valid"), ("changes", "", "")],
)
def test_what_only_a_merged_instance_holds_is_served_merged_alone(phase, served, refused):
    long = case(Expect.SERVE_MERGED)
    assert judge(long, reply(generated()), None, phase).failure == served
    assert judge(long, reply({"error": "top_p"}, 400), None, phase).failure == refused


def test_a_200_is_held_against_what_was_asked_for():
    sent = {"text": "a", "sampling_params": {"n": 2, "max_new_tokens": 3}}
    assert not judge(case(sent=sent), reply([generated()] * 2), None).failure
    assert "choices" in judge(case(sent=sent), reply([generated()]), None).why
    too_many = judge(case(sent=sent), reply([generated(tokens=4)] * 2), None)
    assert "tokens" in too_many.why
    aborted = judge(case(), reply(generated(finish="abort")), None)
    assert aborted.failure == "wrong answer"
    assert judge(case(), reply(b"{"), None).failure == "wrong answer"


def test_a_harmless_field_must_not_change_the_text():
    assert not judge(case(same=True), reply(generated("x")), "x").failure
    assert judge(case(same=True), reply(generated("y")), "x").failure == "another text"
    assert not judge(case(same=False), reply(generated("y")), "x").failure


def test_streams_are_read_by_choice_and_must_end():
    events = [generated("a"), generated("ab"), {**generated("c"), "index": 1}]
    lines = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    kind = "text/event-stream"
    found = read_choices("/generate", kind, lines + b"data: [DONE]\n\n")
    assert [choice.text for choice in found] == ["ab", "c"]
    with pytest.raises(UnreadableError):
        read_choices("/generate", kind, lines)
    with pytest.raises(UnreadableError):
        read_choices("/generate", kind, b'data: {"error": {"code": 500}}\n\ndata: [DONE]\n\n')


@pytest.mark.parametrize(
    "sent, wanted",
    [
        ({"text": "a"}, 1),
        ({"text": ["a", "b"], "sampling_params": {"n": 3}}, 6),
        ({"input_ids": [1, 2]}, 1),
        ({"input_ids": [[1], [2]]}, 2),
        ({"prompt": "a", "n": 2}, 2),
        ({"prompt": "a", "n": "2"}, None),
        ({"text": 5}, None),
        ({"text": "a", "sampling_params": []}, None),
    ],
)
def test_choices_are_counted_where_that_can_be_said(sent, wanted):
    assert count_choices(sent) == wanted


def test_problems_of_streams_within_an_outage_are_counted_apart():
    streams = Streams(2)
    streams.problems = [Problem(100.0, "harmed"), Problem(200.0, "died")]
    assert [p.what for p in streams.harmed([(190.0, 230.0)])] == ["harmed"]


def test_memory_is_flat_if_the_last_third_is_not_above_the_middle():
    rising = [1000.0 + n for n in range(90)]
    assert Memory([[1000.0] * 30 + [1200.0] * 60]).figures()["flat"]
    assert not Memory([rising]).figures()["flat"]
