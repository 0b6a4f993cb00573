"""What happens when a process fails, or a request is hostile?"""

from __future__ import annotations

from bench.results_file import read
from tools.results.numbers import fixed
from tools.results.table import Table

_MOMENTS = {
    "idle": "idle, degree 1",
    "busy": "busy, degree 1",
    "joint idle": "idle, merged",
    "joint busy": "busy, merged",
    "transformation": "in the middle of a transformation",
}


def faults() -> Table:
    source = read("faults")
    rows = []
    for case in source.figures["cases"]:
        clients = case["clients"]
        left = len(case["processes_left"]) + len(case["files_left"])
        rows.append(
            (
                f"{_MOMENTS[case['moment']]}, {case['fault']}",
                f"{sum(bool(client['error']) for client in clients)} of {len(clients)}",
                fixed(max(client["seconds"] for client in clients), 2),
                fixed(case["exit_seconds"], 1),
                fixed(case["exit_code"]),
                fixed(left),
            )
        )
    return Table(
        name="faults",
        question="What do clients see when a worker is killed or frozen?",
        columns=(
            "moment and fault",
            "clients with an error",
            "the last of them after, s",
            "exit after, s",
            "exit code",
            "processes and files left",
        ),
        rows=tuple(rows),
        noise=f"One run each, {source.figures['workers']} workers; a frozen one is given up after "
        "8 s without a heartbeat.",
        sources=(source,),
    )


def hostile() -> Table:
    source = read("hostile_n2")
    found = source.figures
    memory, streams = found["memory_of_the_front_end"], found["streams"]
    hits = [sum(kinds.values()) for fields in found["fields"].values() for kinds in fields.values()]
    slowest, which = found["slowest_answer"]
    rows = (
        ("hostile requests", fixed(found["sent"])),
        ("refused with a name", fixed(found["by_verdict"]["refused"])),
        ("served right", fixed(found["by_verdict"]["served"])),
        ("answered wrong", fixed(len(found["failures"]))),
        ("deaths of the server", fixed(len(found["deaths"]))),
        (
            f"of {streams['done']} streams beside them, harmed",
            fixed(len(streams["harmed"])),
        ),
        ("merges and splits meanwhile", fixed(found["transformations"]["done"])),
        ("of these failed", fixed(len(found["transformations"]["failed"]))),
        ("processes and files left behind", fixed(len(found["left_behind"]))),
        (
            "memory of the front end in the second and the last third, MiB",
            f"{fixed(memory['middle_third_mib'], 1)}, {fixed(memory['last_third_mib'], 1)}",
        ),
        ("fields of the schemas, all hit", fixed(len(hits))),
        ("how often each", f"{min(hits)} to {max(hits)}"),
        ("slowest answer, s", f"{fixed(slowest, 1)}, `{which}`"),
    )
    settings = found["settings"]
    return Table(
        name="hostile",
        question="What do requests do that nobody should send?",
        columns=("what", "how many"),
        rows=rows,
        noise=f"One run, seed {settings['seed']}, {settings['workers']} workers, the model's first "
        f"{settings['layers']} layers.",
        sources=(source,),
    )
