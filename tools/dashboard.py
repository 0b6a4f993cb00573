"""Write docs/ops/grafana.json, the dashboard that stands beside SGLang's own.

    python -m tools.dashboard

Panels are defined here; a test keeps the file, and `make test-ops` asks a real Prometheus all of
their queries.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "docs/ops/grafana.json"
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_WIDTH, _HEIGHT, _COLUMNS = 8, 7, 3


@dataclass(frozen=True)
class Panel:
    """`queries`: PromQL and the legend of its series. `steps`: values that hold until the next."""

    title: str
    about: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    steps: bool = False


def upstream(metric: str) -> str:
    """One of SGLang's, `sglang:NAME`: to a Prometheus before 3 its exporter says `sglang_NAME`."""
    return f'{{__name__=~"sglang[:_]{metric}", $which}}'


def quantiles(buckets: str) -> tuple[tuple[str, str], ...]:
    rates = f"sum by (le) (rate({buckets}[$__rate_interval]))"
    return tuple(
        (f"histogram_quantile({share}, {rates})", f"p{round(100 * share)}") for share in (0.5, 0.95)
    )


PANELS = (
    Panel(
        "Degree of each rank",
        "How many workers step together at each rank.",
        (("amoeba_instance_degree{$which}", "rank {{rank}}"),),
        steps=True,
    ),
    Panel(
        "Long requests",
        "Those that need more than one worker: waiting in the router, and with a worker.",
        (("sum by (state) (amoeba_long_requests{$which})", "{{state}}"),),
        steps=True,
    ),
    Panel(
        "Wait of the oldest long request",
        "0 when none waits.",
        (("max(amoeba_long_wait_seconds{$which})", "oldest"),),
        unit="s",
    ),
    Panel(
        "Transformations",
        "Merges and splits that ended, by outcome; refused ones changed nothing.",
        (
            (
                "sum by (kind, outcome) (increase(amoeba_transformations_total{$which}"
                "[$__rate_interval]))",
                "{{kind}} {{outcome}}",
            ),
        ),
    ),
    Panel(
        "Time of a transformation",
        "From the order to the last worker's report; tokens flow meanwhile.",
        quantiles("amoeba_transformation_seconds_bucket{$which}"),
        unit="s",
    ),
    Panel(
        "Longest pause in a transformation",
        "The longest time in which a worker made no token.",
        quantiles("amoeba_step_stall_seconds_bucket{$which}"),
        unit="s",
    ),
    Panel(
        "Bytes moved",
        "KV that changed worker, and weights that splits brought home.",
        (
            (
                "sum by (what) (rate(amoeba_bytes_moved_total{$which}[$__rate_interval]))",
                "{{what}}",
            ),
        ),
        unit="Bps",
    ),
    Panel(
        "KV of each rank",
        "Tokens that a rank's pool holds; more when its weights gave memory up.",
        (("amoeba_kv_capacity_tokens{$which}", "rank {{rank}}"),),
        steps=True,
    ),
    Panel(
        "Leased KV",
        "Tokens of its peers' slots that the first rank of an instance has; all come home.",
        (("amoeba_leased_tokens{$which}", "rank {{rank}}"),),
        steps=True,
    ),
    Panel(
        "Tokens a second",
        "Output of the whole server.",
        (
            (f"sum(rate({upstream('generation_tokens_total')}[$__rate_interval]))", "output"),
            (f"sum(rate({upstream('prompt_tokens_total')}[$__rate_interval]))", "prompts"),
        ),
    ),
    Panel(
        "Time to first token",
        "As clients see it, with the wait for a merge.",
        quantiles(upstream("time_to_first_token_seconds_bucket")),
        unit="s",
    ),
    Panel(
        "Time between tokens",
        "As clients see it.",
        quantiles(upstream("inter_token_latency_seconds_bucket")),
        unit="s",
    ),
)


def make_dashboard() -> dict[str, Any]:
    variables = [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        {
            "name": "instance", "type": "query", "datasource": _SOURCE, "label": "Server",
            "query": "label_values(amoeba_instance_degree, instance)", "refresh": 2,
            "includeAll": True, "multi": True, "allValue": ".*", "current": {"text": "All",
            "value": "$__all"},
        },
    ]  # fmt: skip
    return {
        "uid": "amoeba-sglang",
        "title": "Amoeba on SGLang",
        "tags": ["sglang", "amoeba"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": variables},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, _COLUMNS)
    custom = {"drawStyle": "line", "lineInterpolation": "stepAfter" if panel.steps else "linear"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": {"h": _HEIGHT, "w": _WIDTH, "x": column * _WIDTH, "y": row * _HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "custom": custom},
            "overrides": [],
        },
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": _SOURCE,
                "expr": query.replace("$which", 'instance=~"$instance"'),
                "legendFormat": legend,
            }
            for position, (query, legend) in enumerate(panel.queries)
        ],
    }


def main() -> None:
    FILE.write_text(json.dumps(make_dashboard(), indent=2) + "\n")


if __name__ == "__main__":
    main()
