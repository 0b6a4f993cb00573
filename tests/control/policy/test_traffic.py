import pytest

from amoeba_sglang.control.policy.base import RequestSize
from amoeba_sglang.control.policy.traffic import TrafficBook


def test_steady_traffic_is_known_by_its_rate_and_mean_sizes():
    book = TrafficBook(60.0)
    for number in range(3000):
        book.add(RequestSize(900 + number % 3, 200), 1, number / 10)
    [found] = book.classes(300.0)
    assert found.rate == pytest.approx(10.0, rel=0.02)
    assert (found.prompt_tokens, found.output_tokens) == pytest.approx((901, 200), rel=1e-3)
    assert book.evidence(300.0) == pytest.approx(600, rel=0.03)
    assert book.evidence(1e6) == 0.0


def test_nothing_yet_is_not_nothing_lately():
    assert TrafficBook(60.0).evidence(5.0) is None


def test_the_beginning_is_not_taken_for_silence():
    book = TrafficBook(60.0)
    for number in range(50):
        book.add(RequestSize(1000, 100), 1, number / 10)
    assert sum(one.rate for one in book.classes(5.0)) == pytest.approx(10.0, rel=0.05)


def test_what_came_long_ago_is_forgotten_and_degrees_are_kept_apart():
    book = TrafficBook(10.0)
    book.add(RequestSize(120_000, 100), 2, 0.0)
    book.add(RequestSize(120_000, 100), 4, 0.0)
    assert sorted(one.degree for one in book.classes(0.0)) == [2, 4]
    book.add(RequestSize(100, None), 1, 200.0)
    [found] = book.classes(200.0)
    assert (found.degree, found.output_tokens) == (1, 256)
