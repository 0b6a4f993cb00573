"""How tables and their numbers are written, and figures drawn."""

import pytest

from bench.charts import measured, style
from bench.results_file import Result
from tools.results import numbers
from tools.results.table import Table, fill, strip

SOURCE = Result("ratio", ("0123456789ab",), "AMD EPYC", 2, {})
PAGE = "# A\n\n<!-- table one -->\nold 7.5\n<!-- end one -->\n\ntext\n"


def make_table(**changes):
    made = {
        "name": "one", "question": "How?", "columns": ("what", "ms"), "rows": (("a", "1"),),
        "noise": "Once.", "sources": (SOURCE,),
    }  # fmt: skip
    return Table(**{**made, **changes})


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (numbers.fixed(6240), "6,240"),
        (numbers.fixed(-0.02, 1), "0.0"),
        (numbers.fixed(1.1928, 2), "1.19"),
        (numbers.signed(85.4), "+85"),
        (numbers.signed(-0.2), "0"),
        (numbers.tiny(4.182e-6), "4.2e-6"),
        (numbers.tiny(0), "0"),
        (numbers.spread({"median": 0.079, "min": 0.066, "max": 0.15}, 0, 1e3), "79 (66 to 150)"),
        (numbers.median_and_most({"median": 1.19, "max": 1.37}), "1.19 (1.37)"),
        (numbers.reach([0.751, 0.749]), "0.75"),
        (numbers.reach([1, 3], 0), "1 to 3"),
    ],
)  # fmt: skip
def test_numbers_are_shown_alike(shown, text):
    assert shown == text


def test_only_what_stands_between_marks_is_written():
    text, changed = fill(PAGE, {"one": make_table()})
    assert changed == ["one"]
    assert text.startswith("# A\n\n<!-- table one -->\n\n**How?**") and text.endswith("text\n")
    assert "| a | 1 |" in text and "old" not in text
    assert fill(text, {"one": make_table()}) == (text, [])
    assert strip(text) == "# A\n\n\n\ntext\n"


def test_a_mark_without_a_table_is_an_error():
    with pytest.raises(KeyError, match="one"):
        fill(PAGE, {})


def test_a_footnote_groups_files_by_commit():
    other = Result("idle_n2", ("0123456789ab",), "Intel(R) Xeon(R) Processor", 2, {})
    third = Result("soak", ("aaaaaaaaaaaa", "bbbbbbbbbbbb"), "AMD EPYC", 2, {})
    assert make_table(sources=(SOURCE, other, third)).footnote == (
        "Once. 2 cores of an AMD EPYC and 2 cores of an Intel Xeon; at 0123456 "
        "[ratio](../bench/results/ratio.json), [idle_n2](../bench/results/idle_n2.json); "
        "at aaaaaaa, bbbbbbb [soak](../bench/results/soak.json)."
    )


def test_a_row_that_is_too_short_is_an_error():
    with pytest.raises(ValueError, match="one: a row"):
        make_table(rows=(("a",),))


def test_no_two_colours_are_the_same():
    assert len(set(style.PALETTE)) == len(style.PALETTE)


def test_words_beside_curves_do_not_lie_on_one_another():
    _, [[axes]] = style.new_grid(1, 1, (4, 3))
    axes.set_yscale("log")
    axes.set_ylim(1, 1000)
    low, high, far = style.spread_out(axes, [10.1, 10, 500])
    assert high == pytest.approx(10) and low > 1.5 * high and far == pytest.approx(500)


def test_what_is_left_of_a_difference_of_noisy_times_is_on_the_axis(tmp_path):
    spread = {"median": -3.0, "min": -99.0, "max": 7.0}
    ways = {"overall of a merge: all at once": spread, "overall of a merge: staggered": spread}
    case = {"shape": "A", "degree": 2, "live_tokens": 1024, "ms": ways}
    source = Result("transform", ("0123456789ab",), "AMD EPYC", 2, {"cases": [case]})
    figure = measured._draw_costs(source, "overall of a merge")
    [axes] = figure.axes
    assert min(y for line in axes.lines for y in line.get_ydata()) >= 1
    assert axes.get_ylim()[0] == 1
    assert style.save(figure, tmp_path / "costs.svg", "a stamp").read_text().count("a stamp") == 1
