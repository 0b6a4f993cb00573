from rich.console import Console

from amoeba_sglang.top.history import History
from amoeba_sglang.top.screen import draw
from tests.top.server import events_of_a_merge


def heard():
    (_, view), *frames = events_of_a_merge()
    history = History.of_view(view)
    for name, data in frames:
        history.take(name, data)
    return history, frames


def test_layers_that_move_are_told_apart():
    history, _ = heard()
    assert list(history.degrees) == [
        [-1, -1, 1, 1], [-1, -1, 1, 1], [-2, -2, 1, 1],
    ]  # fmt: skip
    assert list(history.rates) == [12.5] * 3


def test_nothing_is_noted_twice():
    history, frames = heard()
    before = len(history.log), len(history.degrees)
    for name, data in frames:
        history.take(name, data)
    assert (len(history.log), len(history.degrees)) == before
    assert [line.text for line in history.log][-1].startswith(("request", "merge"))


def test_trouble_stays_until_the_next_frame():
    history, frames = heard()
    history.take("trouble", {"error": "no answer"})
    assert history.trouble == "no answer"
    history.take("frame", {**frames[-1][1], "now": 99.0})
    assert history.trouble == ""


def test_it_fits_into_any_terminal():
    history, _ = heard()
    for width in (40, 80, 200):
        console = Console(width=width, record=True, file=open("/dev/null", "w"))
        console.print(draw(history, width=width, lines=24))
        assert "degree" in console.export_text()
