"""The command, from a trace file to its results."""

import asyncio
import json
import sys
import threading
from contextlib import contextmanager

import pytest

from bench import replay, results_file
from bench.charts import replay as charts
from bench.charts import style
from tests.bench.stand_in import StandIn, Words

EMULATED = {"model": "32B", "device": "H100", "cost_model": "roofline", "dilation": 2.0}


@contextmanager
def serving(stand_in):
    """Its URL, while it runs in a thread of its own."""
    started, found = threading.Event(), []

    async def use(url):
        found.extend((url, asyncio.get_running_loop(), end := asyncio.Event()))
        started.set()
        await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(stand_in.run(use)))
    thread.start()
    assert started.wait(10)
    url, loop, end = found
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(results_file, "RESULTS", tmp_path)
    monkeypatch.setattr(style, "FIGURES", tmp_path)
    monkeypatch.setattr(replay, "load_prompts", lambda directory, seed: Words())
    trace = tmp_path / "trace.csv"
    trace.write_text("timestamp_s,input_tokens,output_tokens\n0,40,4\n0.2,80,2\n0.3,9000,8\n")

    def run(*args):
        command = ["replay", str(trace), "--tokenizer", "none", "--name", "test", *args]
        monkeypatch.setattr(sys, "argv", command)
        code = replay.main()
        output = capsys.readouterr()
        path = tmp_path / "test.json"
        figures = json.loads(path.read_text())["figures"] if path.exists() else None
        return code, output, figures

    return run


def test_a_replay_states_its_workload_and_draws_its_picture(run, tmp_path):
    with serving(StandIn()) as url:
        code, output, figures = run("--url", url, "--scale", "0.1", "--max-input", "100")
    assert code == 0
    assert figures["requests"]["done"] == 3
    assert figures["workload"]["recipe"]["scale"] == 0.1
    assert figures["workload"]["clipped"] == 1
    assert figures["workload"]["input_tokens"] == 4 + 8 + 100
    assert figures["layout"]["share_of_worker_time_by_degree"] == {"1": 1.0}
    assert "EMULATED" not in output.out
    assert "trace.csv, scale 0.1, max_input 100, 3 requests" in output.out
    assert (tmp_path / "test.png").stat().st_size > 10_000


def test_what_an_emulated_server_did_is_called_emulated_everywhere(run, monkeypatch):
    titles = []
    draw = charts.draw_replay

    def keep(name, title, *rest):
        titles.append(title)
        return draw(name, title, *rest)

    monkeypatch.setattr(charts, "draw_replay", keep)
    with serving(StandIn(emulated=EMULATED)) as url:
        code, output, figures = run("--url", url, "--rows", "2")
    assert code == 0
    assert "EMULATED 32B on H100" in output.out
    assert titles[0].startswith("EMULATED 32B on H100")
    assert next(iter(figures)) == "EMULATED" and figures["EMULATED"]["dilation"] == 2.0


def test_a_bad_option_is_one_line_that_names_it(run):
    code, output, figures = run("--keep", "2")
    assert (code, figures) == (2, None)
    assert output.err == "error: keep 2: must be above 0 and at most 1\n"
