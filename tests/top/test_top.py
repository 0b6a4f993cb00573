"""What `python -m amoeba_sglang.top` prints."""

import pytest

from amoeba_sglang.top.__main__ import histories, main
from amoeba_sglang.top.events import ConnectionLost
from tests.serving.free_port import free_port
from tests.top.server import answering, encode, events_of_a_merge

STREAM = "text/event-stream; charset=utf-8"


def test_one_screen_has_the_facts_of_the_page(capsys):
    with answering(200, encode(events_of_a_merge()), STREAM) as (url, asked):
        assert main([url, "--once", "--api-key", "sesame"]) == 0
    [(path, headers)] = asked
    assert path == "/amoeba/events" and headers["authorization"] == "Bearer sesame"
    text = capsys.readouterr().out
    for fact in (
        "a model", "cpu", "4 workers", "12.5 tokens/s", "first token 250 ms", "longest gap 500 ms",
        "long request of 150 tokens waits", "ranks [0, 1] to degree 2",
    ):  # fmt: skip
        assert fact in text, f"{fact}: {text}"


def test_the_end_of_the_stream_is_a_lost_connection():
    events, seen = events_of_a_merge(), []
    with (
        answering(200, encode(events), STREAM) as (url, _),
        pytest.raises(ConnectionLost, match="closed the stream"),
    ):
        for history in histories(url, ""):
            seen.append([len(ranks) for ranks in history.instances])
    assert seen[0] == [1, 1, 1, 1] and seen[-1] == [2, 1, 1]


@pytest.mark.parametrize(
    ("status", "body", "kind", "code", "message"),
    [
        (404, b"{}", "application/json", 2, "no server of Amoeba (404 for /amoeba/events)"),
        (200, b"<html>", "text/html", 2, "no server of Amoeba"),
        (401, b"{}", "application/json", 2, "asks for a key"),
        (503, b'{"error": "the server ends"}', "application/json", 1, "the server ends"),
    ],
)
def test_what_is_no_server_of_ours_is_one_line(status, body, kind, code, message, capsys):
    with answering(status, body, kind) as (url, _):
        assert main([url]) == code
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and url in error


def test_nobody_there_is_one_line(capsys):
    assert main([f"http://127.0.0.1:{free_port(20000, 29999)}"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["127.0.0.1:1"]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1


def test_a_wrong_key_is_told_from_none(capsys):
    with answering(401, b"{}", "application/json") as (url, _):
        assert main([url, "--api-key", "x"]) == 2
    assert "does not let this key in" in capsys.readouterr().err
