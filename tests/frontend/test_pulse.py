import pytest

from amoeba_sglang.frontend.pulse import Beat, Pulse


def note(pulse, rid, tokens, now, created=None, finished=False):
    pulse.note(rid, tokens, now, created=created, finished=finished)


def test_a_beat_has_first_tokens_gaps_and_the_rate():
    pulse = Pulse(10.0)
    note(pulse, "a", 1, 10.5, created=10.2)
    note(pulse, "b", 1, 10.6, created=10.1)
    note(pulse, "a", 2, 10.8)
    note(pulse, "a", 4, 11.6, finished=True)
    beat = pulse.take(12.0)
    assert beat.tokens_per_second == pytest.approx(5 / 2)
    assert beat.ttft == pytest.approx(0.4) and beat.gap == pytest.approx(0.8)
    assert beat.tpot == pytest.approx((0.3 + 0.8) / 3)
    note(pulse, "b", 2, 12.6)
    assert pulse.take(13.0) == Beat(1.0, None, pytest.approx(2.0), pytest.approx(2.0))


def test_what_began_before_anybody_looked_counts_from_its_second_output_on():
    pulse = Pulse(0.0)
    note(pulse, "old", 50, 0.1)
    assert pulse.take(1.0) == Beat(0.0, None, None, None)
    note(pulse, "old", 52, 1.1)
    beat = pulse.take(2.0)
    assert beat.tokens_per_second == 2.0 and beat.tpot == pytest.approx(0.5)


def test_an_output_without_tokens_is_no_gap():
    pulse = Pulse(0.0)
    note(pulse, "a", 1, 1.0, created=0.0)
    pulse.take(1.0)
    note(pulse, "a", 1, 2.0)
    note(pulse, "a", 2, 3.0)
    assert pulse.take(4.0).gap == pytest.approx(2.0)


def test_requests_that_never_end_are_dropped_at_last():
    pulse = Pulse(0.0)
    note(pulse, "aborted", 1, 1.0, created=0.0)
    pulse.take(2.0)
    pulse.take(700.0)
    note(pulse, "aborted", 5, 701.0)
    assert pulse.take(702.0) == Beat(0.0, None, None, None)


def test_who_is_gone_is_forgotten():
    pulse = Pulse(0.0)
    note(pulse, "a", 1, 1.0, created=0.0, finished=True)
    note(pulse, "b", 1, 1.0, created=0.0)
    pulse.forget(5.0)
    note(pulse, "b", 9, 6.0)
    assert pulse.take(7.0) == Beat(0.0, None, None, None)
