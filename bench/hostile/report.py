"""The figures of a run as JSON, and in short for a reader."""

from collections import Counter, defaultdict
from typing import Any

from bench.hostile.bodies import EXCLUDED
from bench.hostile.cases import Case
from bench.hostile.run import Run, as_dicts

_KEPT = 300


def figures(run: Run, cases: list[Case], missed: list[str]) -> dict[str, Any]:
    """All of it; "failed" decides about the exit code."""
    out, memory = run.outcome, run.memory.figures()
    harmed, changes = run.streams.harmed(run.outages), run.changes_failed()
    reasons = {
        "deaths": len(out.deaths),
        "answers that are not right": len(out.failures),
        "streams harmed": len(harmed),
        "transformations that failed": len(changes),
        "plain bodies without a right answer": len(out.unread),
        "requests left behind": len(out.left_behind),
        "memory not flat": int(not memory["flat"]),
        "cases not sent": len(cases) - out.sent,
        "transformations missing": max(0, run.plan.transformations - run.changes.done),
    }
    return {
        "failed": {name: count for name, count in reasons.items() if count},
        "sent": out.sent,
        "by_route": dict(Counter(case.route for case in cases).most_common()),
        "by_status": dict(out.statuses.most_common()),
        "by_verdict": dict(out.verdicts.most_common()),
        "texts_compared": out.texts_compared,
        "plain_bodies_without_a_right_answer": out.unread,
        "refusals_longer_than_4000_bytes": out.long_refusals,
        "slowest_answer": out.slowest,
        "streams": {"done": run.streams.done, "harmed": [p.what for p in harmed][:20]},
        "transformations": {
            "done": run.changes.done,
            "refused": run.changes.refused,
            "failed": changes[:20],
        },
        "memory_of_the_front_end": memory,
        "left_behind": out.left_behind,
        "deaths": list(as_dicts(out.deaths)),
        "failures": list(as_dicts(out.failures[:_KEPT])),
        "fields": count_fields(cases),
        "fields_without_room": missed,
        "excluded_routes": EXCLUDED,
    }


def count_fields(cases: list[Case]) -> dict[str, dict[str, dict[str, int]]]:
    """Route -> field -> kind of value -> how often it was sent."""
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for case in cases:
        for mutation in case.mutations:
            counts[case.route][mutation.field][mutation.value.kind] += 1
    return {
        route: {name: dict(kinds) for name, kinds in sorted(fields.items())}
        for route, fields in sorted(counts.items())
    }


def summarise(found: dict[str, Any]) -> str:
    """A page for a reader."""
    memory = found["memory_of_the_front_end"]
    fields = found["fields"]
    hits = [sum(kinds.values()) for names in fields.values() for kinds in names.values()]
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for failure in found["failures"]:
        groups[failure["kind"], failure["request"].split(" ")[1]].append(failure["request"])
    lines = [
        f"{found['sent']} requests to {len(found['by_route'])} routes, {len(hits)} fields, each "
        f"hit {min(hits, default=0)} to {max(hits, default=0)} times",
        f"status: {found['by_status']}",
        f"verdicts: {found['by_verdict']}, {found['texts_compared']} texts compared",
        f"streams: {found['streams']['done']} right, {len(found['streams']['harmed'])} harmed",
        f"transformations: {found['transformations']['done']}, "
        f"{found['transformations']['refused']} refused, "
        f"{len(found['transformations']['failed'])} failed",
        f"front end: {memory}",
        f"slowest answer: {found['slowest_answer']}",
        f"left behind: {found['left_behind']}",
    ]
    for (kind, route), requests in sorted(groups.items()):
        lines.append(f"  {kind}, {route}: {len(requests)}, as {min(requests, key=len)[:150]}")
    lines += [f"  DEATH with {death['in_flight']}" for death in found["deaths"]]
    lines.append(f"failed: {found['failed'] or 'nothing'}")
    return "\n".join(lines)
