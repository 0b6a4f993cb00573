from pathlib import Path

import pytest

from amoeba_sglang.patch.series import Series
from amoeba_sglang.patch.state import PatchState, read_state
from amoeba_sglang.patch.target import find_target
from tests.patch.trees import PRISTINE, expect, fingerprint, read_tree, write_tree


def look(series: Series, place: Path) -> tuple[str, list[str]]:
    state = read_state(series, find_target(place))
    return state.overall, [state.of_patch(patch) for patch in series.patches]


def put(root: Path, tree: dict[str, str]) -> None:
    """Make the package below `root` exactly `tree`."""
    write_tree(root, dict.fromkeys(read_tree(root)))
    write_tree(root, tree)
    assert read_tree(root) == tree


@pytest.mark.parametrize("installed", [True, False])
def test_both_ends_are_told(series: Series, site: Path, checkout: Path, installed: bool) -> None:
    place = site if installed else checkout
    root = site if installed else checkout / "python"
    for level, overall, each in ((0, "unpatched", "not applied"), (3, "patched", "applied")):
        put(root, expect(level))
        before = fingerprint(root)
        assert look(series, place) == (overall, [each] * 3)
        assert fingerprint(root) == before


def test_mixture_of_a_crash_is_partial(series: Series, site: Path) -> None:
    put(site, PRISTINE | {"sglang/srt/b.py": expect(3)["sglang/srt/b.py"]})
    assert look(series, site) == ("partial", ["not applied", "half applied", "not applied"])
    put(site, expect(3) | {"sglang/srt/b.py": PRISTINE["sglang/srt/b.py"]})
    assert look(series, site) == ("partial", ["applied", "half applied", "applied"])


def problem(state: PatchState) -> str:
    assert state.overall == "modified"
    (line,) = state.problems
    return line


@pytest.mark.parametrize("level", [0, 3])
@pytest.mark.parametrize("number", [21, 39])
def test_change_inside_and_outside_of_hunks_names_the_file(
    series: Series, site: Path, checkout: Path, level: int, number: int
) -> None:
    for place, root in ((site, site), (checkout, checkout / "python")):
        put(root, expect(level))
        file = root / "sglang/srt/b.py"
        file.write_text(file.read_text().replace(f"line {number}\n", "mine\n"))
        text = problem(read_state(series, find_target(place)))
        assert text.startswith(f"{file} is locally modified: it is neither sglang 0.5.23's nor")
        ends = "applied" if level else "not applied"
        assert look(series, place)[1] == [ends, "conflicting", ends]


def test_missing_and_unexpected_files_are_modified(series: Series, site: Path) -> None:
    (site / "sglang/srt/b.py").unlink()
    assert problem(read_state(series, find_target(site))).endswith("b.py is missing")
    put(site, PRISTINE | {"sglang/srt/new.py": "somebody else's\n"})
    assert "new.py is locally modified" in problem(read_state(series, find_target(site)))
