from __future__ import annotations

from pathlib import Path

import pytest

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.series import load_series


def test_reads_titles_files_and_counts_in_series_order(directory: Path) -> None:
    first, second, third = load_series(directory).patches
    title = "Seam 1: a title that is so long that git folds the line"
    assert first.title == f"{title} {title}"
    assert (first.files, first.added, first.removed) == (("python/sglang/srt/a.py",), 1, 1)
    assert second.files == ("python/sglang/srt/a.py", "python/sglang/srt/b.py")
    assert (second.added, second.removed) == (3, 2)
    assert third.files == ("python/sglang/srt/fresh/new.py", "python/sglang/srt/old.py")
    assert load_series(directory).files == (
        "python/sglang/srt/a.py",
        "python/sglang/srt/b.py",
        "python/sglang/srt/fresh/new.py",
        "python/sglang/srt/old.py",
    )


def test_series_file_decides_order_and_membership(directory: Path) -> None:
    names = [patch.path.name for patch in load_series(directory).patches]
    (directory / "series").write_text(f"{names[2]}  # first\n# {names[1]}\n\n{names[0]}\n")
    assert [patch.path.name for patch in load_series(directory).patches] == [names[2], names[0]]


DIFF = "Subject: [PATCH] t\n---\ndiff --git a/{0} b/{1}\n"
HUNK = "--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-a\n+b\n"
MODE = "old mode 100644\nnew mode 100755\n"
RENAME = "similarity index 100%\nrename from python/sglang/a\nrename to python/sglang/b\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Subject: t\n\nwords only\n", "x.patch is not a patch"),
        ((DIFF + HUNK).format("setup.py", "setup.py"), "x.patch touches setup.py, outside"),
        (DIFF.format("python/sglang/a", "python/sglang/b") + RENAME, "x.patch: renames, modes"),
        (
            DIFF.format("python/sglang/a", "python/sglang/a") + MODE,
            "x.patch: renames, modes",
        ),
        (HUNK.format("python/sglang/a"), "x.patch has no Subject line"),
        (None, "series names x.patch, which does not exist"),
    ],
)
def test_refuses_what_it_cannot_handle(tmp_path: Path, text: str | None, message: str) -> None:
    (tmp_path / "series").write_text("x.patch\n")
    if text is not None:
        (tmp_path / "x.patch").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_series(tmp_path)


def test_refuses_an_empty_series(tmp_path: Path) -> None:
    (tmp_path / "series").write_text("# nothing yet\n")
    with pytest.raises(ConfigError, match="names no patch"):
        load_series(tmp_path)
