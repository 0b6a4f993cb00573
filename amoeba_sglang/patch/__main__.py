"""`python -m amoeba_sglang.patch`: apply, revert, show or check the patches on an SGLang."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.patch.change import apply_series, revert_series
from amoeba_sglang.patch.series import load_series
from amoeba_sglang.patch.state import PatchState, read_state
from amoeba_sglang.patch.target import find_target


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (refused, or `check` failed) or 2 (usage)."""
    parser = argparse.ArgumentParser(prog="python -m amoeba_sglang.patch", description=__doc__)
    parser.add_argument(
        "command",
        choices=("apply", "revert", "status", "check"),
        help="put all patches on, or take all off (both mend a partial state); show each patch and "
        "the state of the whole; or do so with exit code 0 only if exactly these patches are on",
    )
    parser.add_argument(
        "--target",
        type=Path,
        metavar="DIR",
        help="a site-packages, an sglang package or an upstream checkout "
        "(default: the sglang that this Python imports)",
    )
    options = parser.parse_args(arguments)
    try:
        return _run(options.command, options.target)
    except (ConfigError, OSError) as error:
        print(f"{parser.prog} {options.command}: {error}", file=sys.stderr)
        return 1


def _run(command: str, directory: Path | None) -> int:
    series = load_series()
    target = find_target(directory)
    if command in ("status", "check"):
        state = read_state(series, target)
        _show(state)
        return 1 if command == "check" and state.overall != "patched" else 0
    change = apply_series if command == "apply" else revert_series
    files = change(series, target)
    verb = "applied" if command == "apply" else "reverted"
    note = "" if target.version else "; its version cannot be read, but every patch fits"
    print(f"{verb} {len(series.patches)} patches ({files} files changed) in {target.root}{note}")
    return 0


def _show(state: PatchState) -> None:
    for patch in state.series.patches:
        lines = f"+{patch.added} -{patch.removed}"
        print(f"{state.of_patch(patch):<12} {lines:>10}  {patch.name}  {patch.title}")
    version = state.target.version or "of unknown version"
    print(f"{state.overall}: sglang {version} in {state.target.root}")
    for problem in state.problems:
        print(f"  {problem}")


if __name__ == "__main__":
    sys.exit(main())
