"""Write the manifest of the patches anew, after one of them has changed.

    python -m tools.patch_manifest PRISTINE

PRISTINE holds the unpatched `sglang` that the patches are for: a site-packages or a checkout.
"""

import argparse
import json
import re
from dataclasses import asdict
from pathlib import Path

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.change import transform
from amoeba_sglang.patch.git import run_git
from amoeba_sglang.patch.series import MANIFEST, Patch, find_directory, hash_content
from amoeba_sglang.patch.target import Target, find_target


def make_manifest(directory: Path, pristine: Target) -> str:
    """The text of the manifest of all patches in `directory`; ConfigError if they do not fit."""
    paths = sorted(directory.resolve().glob("*.patch"))
    patches = [_read_patch(path) for path in paths]
    before = {path: pristine.read(path) for patch in patches for path in patch.files}
    after = transform(before, paths)
    if after is None:
        raise ConfigError(f"the patches do not fit {pristine.root}, or are on it already")
    files = {path: [hash_content(c) for c in (before[path], after[path])] for path in before}
    manifest = {"patches": [asdict(patch) for patch in patches], "files": files}
    return json.dumps(manifest, indent=1) + "\n"


def _read_patch(path: Path) -> Patch:
    answer = run_git(["apply", "--numstat", path], path.parent)
    if answer.returncode != 0:
        raise ConfigError(f"{path.name} is not a patch: {answer.stderr.strip().splitlines()[0]}")
    rows = [line.split("\t") for line in answer.stdout.splitlines()]
    subject = re.search(r"^Subject: (.*(?:\n[ \t].*)*)", path.read_text(), re.MULTILINE)
    if subject is None:
        raise ConfigError(f"{path.name} has no Subject line")
    return Patch(
        name=path.name,
        title=re.sub(r"^\[[^]]*\]\s*", "", re.sub(r"\s*\n\s*", " ", subject[1])),
        files=tuple(file for _, _, file in rows),
        added=sum(int(plus) for plus, _, _ in rows),
        removed=sum(int(minus) for _, minus, _ in rows),
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.patch_manifest")
    parser.add_argument("pristine", type=Path, metavar="PRISTINE")
    pristine = find_target(parser.parse_args(arguments).pristine)
    directory = find_directory()
    (directory / MANIFEST).write_text(make_manifest(directory, pristine))


if __name__ == "__main__":
    main()
