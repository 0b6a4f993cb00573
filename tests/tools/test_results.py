"""docs/results.md is what bench/results says, and no other page says it."""

import re
from pathlib import Path

import pytest

from bench.results_file import RESULTS
from tools.results.charts import CHARTS, FOLDER
from tools.results.page import PAGE, make_tables
from tools.results.readme import five_results
from tools.results.simulated import rivals, roofline, tp_loss
from tools.results.table import fill, marked, strip

ROOT = PAGE.parents[1]
TABLES = make_tables()
# Files of bench/results that no table is of, and why.
WITHOUT_TABLE: dict[str, str] = {}
# What of the page is measured but in no file, and why.
BY_HAND = {
    "one_long_step": "no bench writes a file of it",
    "world": "its log is not committed",
    "coverage": "no bench measures it",
    "lock_step": "counted over runs whose files do not all have it",
    "dp": "the file of that run was not kept",
    "xeon": "a later run replaced its file",
    "versions": "the files of those runs were not kept",
    "setting_up": "no bench measures it",
}
NO_FIGURES = {
    "403": "a status of HTTP",
    "503": "a status of HTTP",
    "0.98": "the bar of `make ratio`",
}
_BY_HAND = re.compile(r"<!-- by hand (\S+) -->\n.*?<!-- end \1 -->", re.DOTALL)
_NUMBER = re.compile(r"(?<![\w.,/-])\d[\d,]*(?:\.\d+)?(?:e-?\d+)?(?!\w)")
_FIVE = re.compile(r"^## Five results\n(.*?)(?=^## )", re.DOTALL | re.MULTILINE)


def numbers_of(text: str) -> list[str]:
    return [number.rstrip(",") for number in _NUMBER.findall(text)]


def is_distinctive(number: str) -> bool:
    """Whether it hardly stands somewhere by chance."""
    digits = re.sub(r"e.*|[,.]", "", number).strip("0")
    return len(digits) >= 3 or ("." in number and len(digits) >= 2)


def prose_of(page: Path) -> str:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    if page == PAGE:
        text = _BY_HAND.sub("", strip(text))
    return _FIVE.sub("", text)


def test_the_page_is_that_of_the_files():
    assert fill(PAGE.read_text(), TABLES)[1] == [], "write it anew: python -m tools.results"


def test_every_table_stands_once_and_asks_its_own_question():
    assert sorted(marked(PAGE.read_text())) == sorted(TABLES)
    assert len({table.question for table in TABLES.values()}) == len(TABLES)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_table_says_in_a_line_how_often_and_at_which_commits(table):
    assert "\n" not in table.footnote and table.noise
    for source in table.sources:
        assert f"[{source.name}]" in table.footnote
        for commit in source.commits:
            assert re.fullmatch("[0-9a-f]{7,}", commit)
            assert commit[:7] in table.footnote


def test_every_file_is_in_a_table():
    used = {source.name for table in TABLES.values() for source in table.sources}
    assert {path.stem for path in RESULTS.glob("*.json")} == used | set(WITHOUT_TABLE)


def test_what_is_simulated_or_emulated_says_so():
    for table in (tp_loss(), roofline(), rivals()):
        assert all("SIMULATED" in text for text in (table.question, table.columns[0], table.noise))
    emulated = TABLES["emulated"].columns[1:]
    assert all(re.match("EMULATED|SIMULATED|ratio", column) for column in emulated)
    assert sum("SIMULATED" in column for column in TABLES["replay"].columns) == 2


def test_charts_are_those_of_the_tables_and_of_todays_data():
    shown = [table.chart for table in TABLES.values() if table.chart]
    assert sorted(shown) == sorted(f"{name}.svg" for name in CHARTS)
    for name, chart in CHARTS.items():
        drawn = (FOLDER / f"{name}.svg").read_text()
        assert chart.stamp in drawn, f"{name}: draw it anew: python -m tools.results"


def test_no_figure_stands_outside_of_the_marks():
    figures = {
        number: table.name
        for table in TABLES.values()
        for row in table.rows
        for cell in row[table.labels :]
        for number in numbers_of(cell)
        if is_distinctive(number) and number not in NO_FIGURES
    }
    assert len(figures) > 500
    pages = ("docs/results.md", "docs/how-it-works.md", "docs/operating.md", "bench/README.md")
    found = [
        f"{page}: {number}, of table {figures[number]}"
        for page in (*pages, "README.md")
        for number in numbers_of(prose_of(ROOT / page))
        if number in figures
    ]
    assert not found, "\n".join(found)


def test_what_is_in_no_file_is_marked_and_has_a_reason():
    assert sorted(_BY_HAND.findall(PAGE.read_text())) == sorted(BY_HAND)


def test_the_five_results_of_the_readme_are_those_of_the_files():
    [section] = _FIVE.findall((ROOT / "README.md").read_text())
    rows = [line for line in section.splitlines() if line.startswith("| ") and line[2] != "-"]
    shown = [tuple(numbers_of(row)) for row in rows if numbers_of(row)]
    assert shown == list(five_results())
