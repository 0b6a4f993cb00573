"""What a screen shows, without a process of its own; see test_screen.py for signals."""

import subprocess
import sys

import pytest

from tools import screen
from tools.screen import Progress, Screen


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(screen, "_LOOK_SECONDS", 0.005)


def show(monkeypatch, live, moments):
    """Progress at these seconds."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: live, raising=False)
    progress = Progress("Title")
    for seconds in moments:
        monkeypatch.setattr(Progress, "seconds", seconds)
        progress.show(f"at {seconds}")
    return progress


def test_on_a_terminal_one_line_is_rewritten(monkeypatch, capsys):
    show(monkeypatch, True, [1, 2]).say("done")
    out = capsys.readouterr().out
    assert out == "\rTitle: 1 s  at 1\x1b[K\rTitle: 2 s  at 2\x1b[K\r\x1b[Kdone\n"


def test_elsewhere_notes_come_ever_later(monkeypatch, capsys):
    show(monkeypatch, False, range(60)).say("done")
    lines = capsys.readouterr().out.splitlines()
    shown = [int(line.split()[1]) for line in lines[:-1]]
    assert shown[0] == 10 and lines[-1] == "done"
    gaps = [later - earlier for earlier, later in zip(shown, shown[1:], strict=False)]
    assert gaps == sorted(gaps) and len(shown) <= 6


def test_a_long_line_is_cut_to_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    Progress("Title").show("x" * 100)
    assert capsys.readouterr().out == f"\r{'Title: 0 s  ' + 'x' * 7}\x1b[K"


def run(tmp_path, *command, ready=None):
    return Screen("Title", tmp_path / "new" / "log", ready, list(command)).run()


def test_a_command_that_succeeds_is_one_line(tmp_path, capsys):
    assert run(tmp_path, "sh", "-c", "echo hidden") == 0
    assert capsys.readouterr().out.startswith("Title: done in ")
    assert (tmp_path / "new" / "log").read_text() == "hidden\n"


def test_a_command_that_fails_shows_its_log(tmp_path, capsys):
    assert run(tmp_path, "sh", "-c", "echo why; exit 3") == 3
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "why" and out[1].startswith("Title: ended with code 3 after")


def test_a_command_that_does_not_exist_has_the_code_of_a_shell(tmp_path, capsys):
    assert run(tmp_path, "/no/such/command") == 127
    assert capsys.readouterr().out == "error: /no/such/command: No such file or directory\n"


def test_from_the_ready_line_on_all_is_shown(tmp_path, capsys):
    script = "echo noise; echo Ready at 1; printf rest; exit 5"
    assert run(tmp_path, "sh", "-c", script, ready="Ready") == 5
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "Ready at 1" and out[2] == "rest"
    assert not any("noise" in line for line in out)


@pytest.mark.parametrize(("ready", "code"), [(None, 143), ("Ready", 0)])
def test_a_signal_ends_the_command(tmp_path, capsys, monkeypatch, ready, code):
    """A server that was told to end has not failed."""
    handled = []
    monkeypatch.setattr(screen, "handle_signals", handled.append)

    class Impatient(Screen):
        def _follow(self, process, log):
            while not self._log.read_text():
                pass
            self._take(self._log.read_text().rstrip())
            screen._raise_ended(15, None)

    command = ["sh", "-c", "echo Ready; exec sleep 60"]
    assert Impatient("Title", tmp_path / "log", ready, command).run() == code
    assert "ending, Ctrl-C again kills it" in capsys.readouterr().out
    assert len(handled) == 1, "a second signal must kill"


def test_what_does_not_end_in_time_is_killed(monkeypatch):
    monkeypatch.setattr(screen, "_END_SECONDS", 0.1)
    process = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo on; while :; do sleep 1; done"],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    process.stdout.readline()
    screen.end(process)
    assert process.returncode == -9
    process.stdout.close()
    screen.end(process)
    screen.kill(process)


def test_the_command_line_says_what_to_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(screen, "handle_signals", lambda handler: None)
    assert screen.main(["Title", str(tmp_path / "log"), "--", "sh", "-c", "exit 4"]) == 4
    with pytest.raises(SystemExit):
        screen.main(["Title"])
