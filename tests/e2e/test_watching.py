"""Those who look at a real server: the events, their cost while nobody looks, and the terminal."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from amoeba_sglang.top.__main__ import main
from amoeba_sglang.top.events import follow
from tests.e2e.conftest import split_all
from tests.serving.load import chat_prompts


def test_a_reader_hears_of_a_merge_and_of_all_tokens(pair):
    split_all(pair)
    heard, merged, over = [], threading.Event(), threading.Event()

    def read():
        for name, data in follow(pair.url, ""):
            heard.append((name, data))
            if any(record["degree"] == 2 for record in data["ended"]):
                merged.set()
            if over.is_set():
                return

    with ThreadPoolExecutor(3) as pool:
        reader = pool.submit(read)
        while not heard:
            assert not reader.done(), reader.result()
            time.sleep(0.01)
        heard_before = heard[0][1]["ended"]
        merged.clear()
        chats = [pool.submit(pair.generate, prompt, 60) for prompt in chat_prompts(2)]
        assert pair.transform([0, 1], 2)[0] == 200
        assert merged.wait(5), "the merge is not told of in time"
        for chat in chats:
            chat.result()
        time.sleep(1)
        over.set()
        reader.result()
    split_all(pair)
    names = [name for name, _ in heard]
    assert names[0] == "view" and set(names[1:]) == {"frame"}
    assert heard[0][1]["instances"]["degree"] == [1, 1]
    assert heard[-1][1]["instances"]["degree"] == [2]
    told = [record["operation_id"] for _, data in heard[1:] for record in data["ended"]]
    assert len(told) == 1 and told[0] not in {one["operation_id"] for one in heard_before}
    beats = [data["beat"] for _, data in heard[1:]]
    tokens = sum(
        beat["tokens_per_second"] * (after["now"] - before["now"])
        for beat, (_, before), (_, after) in zip(beats, heard, heard[1:], strict=False)
    )
    # All of both answers, but for the clocks of two processes.
    assert 100 < tokens < 140, tokens
    assert any(beat["ttft"] for beat in beats) and any(beat["gap"] for beat in beats)


def test_the_terminal_shows_the_layout(pair, capsys):
    split_all(pair)
    assert main([pair.url, "--once"]) == 0
    told = capsys.readouterr().out
    assert "2 workers" in told and "degree" in told and "leased" in told
