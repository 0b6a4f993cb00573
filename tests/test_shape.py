"""Files, functions and calls stay short enough to be read at a glance, and our words few."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("amoeba_sglang", "bench", "tools")
MOST_LINES, MOST_IN_FUNCTION, MOST_POSITIONAL = 300, 60, 5
_FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef


def find_excesses(path: Path) -> Iterator[str]:
    """What is too long or too wide in a file, a line each."""
    text, name = path.read_text(), path.relative_to(ROOT)
    if (lines := len(text.splitlines())) > MOST_LINES:
        yield f"{name}: {lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, _FUNCTIONS):
            lines = node.end_lineno - node.lineno + 1
            if lines > MOST_IN_FUNCTION:
                yield f"{name}:{node.lineno}: {node.name} has {lines} lines"
        elif isinstance(node, ast.Call):
            given = [one for one in node.args if not isinstance(one, ast.Starred)]
            if len(given) > MOST_POSITIONAL:
                yield f"{name}:{node.lineno}: {len(given)} positional arguments"


def test_nothing_is_too_long_or_too_wide():
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 100
    found = [excess for path in files for excess in find_excesses(path)]
    assert not found, "\n".join(found)


def test_our_own_words_are_few_and_in_use():
    rows = re.findall(r"^\| ([\w ]+) \|", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    words = [row.removesuffix(" b") for row in rows if row != "word"]
    assert 10 < len(words) <= 15, words
    code = "\n".join(path.read_text() for path in (ROOT / "amoeba_sglang").rglob("*.py"))
    assert [word for word in words if not re.search(rf"\b{word}", code, re.IGNORECASE)] == []
