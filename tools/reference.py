"""Write docs/reference.md: flags, endpoints, metrics and exit codes, from the code.

    python -m tools.reference

A test keeps the page.
"""

import ast
import inspect
from collections import defaultdict
from pathlib import Path

from amoeba_sglang.control.router import metrics
from amoeba_sglang.flags import make_parser
from amoeba_sglang.frontend import endpoints

PAGE = Path(__file__).parents[1] / "docs/reference.md"
OURS = {
    "GET /amoeba": "the live page; static files, no key",
    "GET /amoeba/state": "layout, load, history and decisions ([fields](interface.md))",
    "GET /amoeba/events": "what the page shows, as server-sent events ([fields](interface.md))",
    "POST /amoeba/transform": "change the degree of some ranks ([fields](interface.md)); with the "
    "admin key if there is one",
    "GET /get_load": "load by worker, as SGLang's gateway reads it",
}
EXITS = {
    0: "told to end (SIGTERM, Ctrl-C)",
    1: "a worker was lost, or stood still; every client got an error, and the log says which one",
    2: "not started: a line on standard error names the flag, the value, the limit and the remedy",
}
_KINDS = ("Counter", "Gauge", "Histogram")


def make_page() -> str:
    parts = [
        "# Flags, endpoints, metrics, exit codes",
        "Written by `python -m tools.reference` from the code, and held against it by a test. "
        "Fields of bodies are in [Names that stay](interface.md).",
        "## Flags",
        "Beside all of SGLang's, of which `--tp-size` is the highest degree and `--dp-size` the "
        "number of groups.",
        _table(("flag", "values", "what it does"), _flags()),
        "## Endpoints",
        "Beside all of SGLang's.",
        _table(("endpoint", "what"), [(f"`{path}`", what) for path, what in OURS.items()]),
        "Refused with 400, since they cannot be served while layouts change:",
        _table(("endpoint", "reason"), _refused()),
        "## Metrics",
        "With `--enable-metrics`, at `/metrics` beside SGLang's own.",
        _table(("metric", "kind", "what"), _metrics()),
        "## Exit codes",
        _table(("code", "when"), [(str(code), when) for code, when in EXITS.items()]),
    ]
    return "\n\n".join(parts) + "\n"


def _flags() -> list[tuple[str, str, str]]:
    rows = []
    for action in make_parser()._actions:
        name = next((one for one in action.option_strings if one.startswith("--amoeba")), None)
        if name is not None:
            values = ", ".join(action.choices) if action.choices else action.metavar or ""
            rows.append((f"`{name}`", values, (action.help or "").replace("%%", "%")))
    return rows


def _refused() -> list[tuple[str, str]]:
    by_reason = defaultdict(list)
    for path, reason in endpoints.REFUSED.items():
        by_reason[reason].append(f"`{path}`")
    return [(", ".join(paths), reason) for reason, paths in by_reason.items()]


def _metrics() -> list[tuple[str, str, str]]:
    rows = []
    for node in ast.walk(ast.parse(inspect.getsource(metrics))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in _KINDS:
            name, about, *rest = node.args
            given = [*rest, *(word.value for word in node.keywords if word.arg == "labelnames")]
            text = ast.unparse(node)
            labels = [
                one.value for part in given if isinstance(part, ast.List) for one in part.elts
            ]
            if "by_rank" in text:
                labels.append("rank")
            shown = f"{{{','.join(labels)}}}" if labels else ""
            rows.append((f"`{name.value}{shown}`", node.func.id.lower(), about.value))
    return rows


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    PAGE.write_text(make_page())


if __name__ == "__main__":
    main()
