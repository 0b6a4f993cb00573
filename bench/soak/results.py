"""The runs of all versions of the package in one file, and their sums."""

import json
import subprocess
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import results_file
from bench.soak.run import Setting

FILE = results_file.RESULTS / "soak.json"
_ROOT = Path(__file__).parents[2]


def version() -> str:
    """The last commit that has changed the package or its patches."""
    said = subprocess.run(
        ["git", "log", "-1", "--format=%h", "--abbrev=12", "--", "amoeba_sglang", "patches"],
        cwd=_ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return said.stdout.strip() + ("-dirty" if results_file.commit().endswith("-dirty") else "")


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {"name": "soak", "versions": {}}


def transformations(setting: Setting, file: Path = FILE) -> int:
    """How many the runs of this version have made without a fault."""
    runs = _read(file)["versions"].get(version(), {}).get(str(setting), {}).get("runs", [])
    return sum(run["transformations"] for run in runs if not run["problems"])


def add(setting: Setting, found: dict[str, Any], file: Path = FILE) -> Path:
    """Add a run, and sum up."""
    kept = _read(file)
    place = kept["versions"].setdefault(version(), {}).setdefault(str(setting), {"runs": []})
    when = datetime.now(UTC).isoformat(timespec="seconds")
    place["runs"].append({"when": when, "machine": results_file.machine(), **found})
    place["sum"] = sum_up(place["runs"])
    file.write_text(json.dumps(kept, indent=1) + "\n")
    return file


def sum_up(runs: list[dict[str, Any]]) -> dict[str, Any]:
    events: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    for run in runs:
        events.update(run["events"])
        for counts in run["requests"].values():
            outcomes.update(counts)
    return {
        "runs": len(runs),
        "with_problems": sum(bool(run["problems"]) for run in runs),
        "transformations": sum(run["transformations"] for run in runs),
        "requests": dict(outcomes),
        "events": dict(sorted(events.items())),
        "worst_log_probability": max(run["worst_log_probability"] for run in runs),
    }


def summarise(found: dict[str, Any]) -> str:
    """A page for a reader."""
    lines = [
        f"{found['transformations']} transformations in {found['minutes']} minutes, "
        f"orders {found['orders']}",
        *(f"  {kind}: {counts}" for kind, counts in found["requests"].items()),
        *(f"  {name}: {count}" for name, count in found["events"].items()),
        f"log-probabilities differ by at most {found['worst_log_probability']:.1e}",
    ]
    for name, grown in found["growth_per_100_transformations"].items():
        lines.append(f"  {name}: {grown}")
    lines += [f"PROBLEM {one['kind']}: {one['what'][:300]}" for one in found["problems"]]
    return "\n".join(lines)
