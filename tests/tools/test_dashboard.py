"""The files of docs/ops: the dashboard and the alerts ask for what is there (`make test-ops` asks a
real Prometheus), compose and Kubernetes take theirs by their schemas."""

import json
import re
import subprocess
import sys
from pathlib import Path

import sglang

from amoeba_sglang.control.router import metrics
from tools.dashboard import FILE, PANELS, make_dashboard

OPS = FILE.parent
UPSTREAM = Path(sglang.__file__).parent / "srt/observability"


def names_in(text):
    """Metrics of Amoeba and SGLang, without what histograms append."""
    found = re.findall(r"\b(?:amoeba_|sglang:)\w+", text.replace("sglang[:_]", "sglang:"))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def test_the_file_is_what_is_defined():
    assert json.loads(FILE.read_text()) == make_dashboard()


def test_every_metric_exists():
    ours = set(re.findall(r'"(amoeba_\w+)"', Path(metrics.__file__).read_text()))
    theirs = {name for file in UPSTREAM.glob("*.py") for name in names_in(file.read_text())}
    asked = names_in(FILE.read_text()) | names_in((OPS / "alerts.yml").read_text())
    asked = {name for name in asked if name not in ("amoeba_sglang",)}
    assert asked <= ours | theirs, asked - ours - theirs
    # And none of ours is nowhere to be seen.
    assert ours <= asked, ours - asked


def test_every_alert_is_tested_both_ways():
    alerts = re.findall(r"alert: (\w+)", (OPS / "alerts.yml").read_text())
    tested = (OPS / "alerts_test.yml").read_text()
    for alert in alerts:
        silent = rf"alertname: {alert}, exp_alerts: \[\]"
        assert re.search(silent, tested) and re.search(rf"alertname: {alert}\n", tested), alert


def test_panels_fill_the_screen_without_overlaps():
    places = [panel["gridPos"] for panel in make_dashboard()["panels"]]
    assert len({(place["x"], place["y"]) for place in places}) == len(PANELS)
    assert all(place["x"] + place["w"] <= 24 for place in places)


def test_examples_are_what_their_schemas_want():
    bin_folder = Path(sys.executable).parent
    for command in (
        ["check-jsonschema", "--builtin-schema", "vendor.compose-spec", OPS / "compose.yml"],
        ["kubernetes-validate", "--strict", OPS / "kubernetes.yml"],
    ):
        found = subprocess.run(
            [bin_folder / command[0], *command[1:]], capture_output=True, text=True
        )
        assert found.returncode == 0, found.stdout + found.stderr
