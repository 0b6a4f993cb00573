"""What an emulated step costs, and how its work is counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.device import load_device
from amoeba_sglang.control.device.emulation import Emulation
from amoeba_sglang.control.device.step_work import StepWork

EMULATION = Emulation(load_device("h100-80-32b-roofline"), 4.0)
ROWS = st.lists(
    st.integers(1, 5000).flatmap(lambda length: st.tuples(st.just(length), st.integers(1, length))),
    max_size=6,
)


@given(ROWS, ROWS)
def test_the_work_of_two_batches_is_that_of_both(some, others):
    both = StepWork.of_rows([*some, *others])
    assert StepWork.of_rows(some) + StepWork.of_rows(others) == both
    assert bool(both) == bool(some or others)


@given(ROWS)
def test_a_prompt_in_chunks_reads_what_it_reads_at_once(rows):
    """Each new token reads those before it, whatever it is computed together with."""
    for length, new in rows:
        if new < 4:
            continue
        half = new // 2
        chunks = [(length - half, new - half), (length, half)]
        assert StepWork.of_rows(chunks).prefill_context == pytest.approx(
            StepWork.of_rows([(length, new)]).prefill_context
        )


def test_nothing_takes_no_time():
    assert EMULATION.step_seconds(1, StepWork()) == 0.0
    assert not StepWork(context_tokens=9, prefill_context=9)
    assert EMULATION.step_seconds(1, StepWork(decode_rows=1, context_tokens=9)) > 0.0


def test_a_person_is_told_that_it_is_emulated_and_what():
    assert EMULATION.sentence.startswith("EMULATED Qwen2.5-32B on ")
    assert "an emulated second takes 4 real ones" in EMULATION.sentence
    shown = EMULATION.describe()
    assert (shown["device_file"], shown["dilation"]) == ("h100-80-32b-roofline", 4.0)
    assert shown["model"] == "Qwen2.5-32B"
