"""Plays kept cases again."""

from pathlib import Path

from tests.world.campaign import build_quietly
from tests.world.kept import Case, all_cases
from tests.world.runner import Child, run
from tests.world.setting import Setting


def replay(path: Path) -> int:
    """Play one kept case with its trace; the exit code."""
    case = Case.read(path)
    outcome = run(build_quietly(case.setting), case.history, traced=True)
    print("\n".join(outcome.trace))
    print(outcome.text or outcome.sentence)
    return 2 if outcome.broken else 1 if outcome.kind else 0


def play_kept(mutant: str) -> int:
    """Play all kept cases, or those of a mutant; the exit code."""
    by_setting: dict[Setting, list[Case]] = {}
    for case in all_cases():
        if not mutant or case.mutant == mutant:
            by_setting.setdefault(case.setting, []).append(case)
    kinds: list[str] = []
    for setting, cases in by_setting.items():

        def play(setting: Setting = setting, cases: list[Case] = cases) -> list[str]:
            built, found = build_quietly(setting), []
            for case in cases:
                outcome = run(built, case.history)
                print(f"{case.name}: {outcome.sentence}", flush=True)
                found.append(outcome.kind)
            return found

        kinds += Child(play).result()
    return 2 if "broken" in kinds else 1 if any(kinds) else 0
