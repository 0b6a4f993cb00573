"""docs/interface.md says what the code does, in both directions."""

import dataclasses
import re
from pathlib import Path

import pytest

from amoeba_sglang.control.policy import POLICIES
from amoeba_sglang.control.router import metrics
from amoeba_sglang.control.router.events import LoadAsked, ViewAsked
from amoeba_sglang.control.router.state import SCHEMA
from amoeba_sglang.flags import make_parser
from amoeba_sglang.frontend.pulse import Beat
from tests.control.router.values import LONG, Case

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "interface.md").read_text()


def section(title: str) -> str:
    """The text below a heading, up to the next one."""
    return re.split(r"\n## ", PAGE.split(f"## {title}", 1)[1])[0]


def words(text: str) -> set[str]:
    return set(re.findall(r"`([^`]+)`", text))


def fields(table: str) -> set[str]:
    """The first column of a table."""
    return set(re.findall(r"^\| `(\w+)` \|", table, re.M))


def test_the_schema_is_the_documented_one():
    assert f"`GET /amoeba/state` is {SCHEMA}." in PAGE and f"| `schema` | {SCHEMA} |" in PAGE


@pytest.mark.parametrize("name", POLICIES)
def test_the_state_has_exactly_the_documented_fields(name):
    always, ruled = section("`GET /amoeba/state`").split("Unless the policy is `static` also:")
    expected = fields(always) | (set() if name == "static" else fields(ruled))
    assert set(Case(POLICIES[name]).state()) == expected


def test_what_the_state_lists_is_documented():
    text = words(section("`GET /amoeba/state`"))
    case = Case(POLICIES["amoeba"])
    case.arrive(**LONG)
    body = case.state()
    [waiting] = body["waiting"]["oldest"]
    for shown in (body["instances"][0], body["waiting"], waiting):
        assert set(shown) <= text, set(shown) - text
    case.tick(1.0)
    body = case.state()
    assert set(body["operation"]) <= text
    assert set(body["decisions"][0]) <= text


def test_a_transformation_has_exactly_the_documented_fields():
    text = section("`POST /amoeba/transform`").split("A transformation:")[1]
    case = Case()
    case.transform([0, 1], 2)
    case.finish(0, 1)
    [record] = case.state()["history"]
    assert {*record, *record["bytes_moved"], "error"} == {*words(text), "seconds_ago"}


def test_events_have_exactly_the_documented_fields():
    table = section("`GET /amoeba/events`")
    case = Case(POLICIES["amoeba"])
    case.arrive(**LONG)
    case.tick(1.0)
    [answer] = case.tell(ViewAsked("w", None))
    assert {*answer.body, "beat", "about"} == fields(table)
    [waiting], [decided] = answer.body["long"], answer.body["decided"]
    for shown in (answer.body["instances"], waiting, decided, answer.body["server"]):
        assert set(shown) <= words(table), set(shown) - words(table)
    assert {field.name for field in dataclasses.fields(Beat)} <= words(table)


def test_loads_have_exactly_the_documented_fields():
    [answer] = Case().tell(LoadAsked("w"))
    assert set(answer.body["loads"][0]) == words(section("`GET /get_load`"))


def test_every_flag_is_documented():
    given = {
        option
        for action in make_parser()._actions
        for option in action.option_strings
        if option.startswith("--amoeba")
    }
    assert {word for word in words(section("Flags")) if word.startswith("--amoeba")} == given


def test_every_metric_is_documented():
    made = set(re.findall(r'"(amoeba_\w+)"', Path(metrics.__file__).read_text()))
    documented = {re.sub(r"\{.*", "", word) for word in words(section("Metrics"))}
    assert {word for word in documented if word.startswith("amoeba")} == made
