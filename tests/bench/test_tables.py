import pytest

from bench.simulation.tables import geometric_mean, print_tables, summarise, tabulate


def row(contender, a, workload="chats", seed=1, rejected=0):
    return {
        "device": "d", "workload": workload, "seed": seed, "contender": contender, "a": a,
        "b": a / 2, "rejected": rejected,
    }  # fmt: skip


ROWS = [
    row("8xTP1", 9.0, rejected=3), row("4xTP2", 4.0), row("2xTP4", 2.0), row("amoeba", 5.0),
    row("8xTP1", 9.0, seed=2), row("4xTP2", 5.0, seed=2), row("2xTP4", 2.0, seed=2),
    row("amoeba", 4.0, seed=2), row("fluid bound", 6.0), row("fluid bound", 6.0, seed=2),
]  # fmt: skip


def test_rates_are_means_of_the_seeds_and_ratios_those_of_the_means():
    one = summarise(ROWS, "a")["chats"]
    assert one["rates"]["amoeba"] == 4.5
    assert one["ratios"]["best static"] == 1.0 and one["ratios"]["2xTP4"] == 2.25
    assert one["ratios"]["fluid bound"] == 0.75


def test_who_rejects_requests_is_not_the_best():
    one = summarise(ROWS, "a")["chats"]
    assert one["rejecting"] == ["8xTP1"]
    assert one["ratios"]["best of all"] == 1.0


def test_the_spread_is_over_seeds():
    one = summarise(ROWS, "a")["chats"]
    assert (one["worst"], one["best"]) == (0.8, 1.25)


def test_a_rival_that_did_not_run_has_no_ratio():
    assert summarise(ROWS, "b")["chats"]["ratios"]["round_robin"] is None


def test_a_table_names_every_contender_and_both_means(capsys):
    print_tables(tabulate(ROWS))
    shown = capsys.readouterr().out
    assert "| chats | 9.00* | 4.50 | 2.00 | 4.50 | 6.00 | 1.00, 2.25, -, 1.00, 0.75 |" in shown
    assert "best static: geometric mean 1.000, least 1.000" in shown


def test_a_geometric_mean_of_a_failure_is_a_failure():
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert geometric_mean([1.0, 0.0]) == geometric_mean([]) == 0.0
