"""Plays ranges of seeds of many profiles, and shows what breaks."""

from __future__ import annotations

import argparse
import json
import logging
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tests.world.events import History
from tests.world.profiles import PROFILES, Profile
from tests.world.results import Results
from tests.world.runner import Child, Outcome, run, run_all
from tests.world.schedulers import build
from tests.world.setting import Setting
from tests.world.shrink import shrink
from tests.world.walk import draw

KEPT = Path(__file__).parent / "kept"
# Of a trace, as many of its last lines as are shown.
_SHOWN = 60


def play_all(options: argparse.Namespace) -> int:
    """As the flags say; the exit code."""
    names = options.profile or list(PROFILES)
    unknown = [name for name in names if name not in PROFILES]
    if unknown:
        print(f"error: --profile {unknown[0]}: not one of {', '.join(PROFILES)}")
        return 2
    first, last = map(int, options.seeds.split(":"))
    results = Results(options.resume, options.workers, options.mutant)
    for name in names:
        profile = of_workers(PROFILES[name], options.workers)
        seeds = [seed for seed in range(first, last) if f"{name}/{seed}" not in results.outcomes]
        if seeds:
            _play_profile(name, profile, seeds, options, results)
        if options.first and results.violations:
            break
    print(json.dumps(results.summary()))
    return 2 if results.broken else 1 if results.violations else 0


def _play_profile(
    name: str,
    profile: Profile,
    seeds: list[int],
    options: argparse.Namespace,
    results: Results,
) -> None:
    """In a fork, since upstream's groups can be built once in a process."""
    batch = 4 * options.jobs if options.first else len(seeds)
    while seeds and results.cpu < options.cpu_limit:
        now, seeds = seeds[:batch], seeds[batch:]
        histories = [draw(profile, name, seed) for seed in now]

        def play(histories: list[History] = histories) -> list[dict[str, Any]]:
            built = _build(profile.setting)
            found = []
            for outcome in run_all(built, histories, options.jobs):
                _say(outcome)
                if outcome.kind and not outcome.broken and not any(o["kind"] for o in found):
                    _show(built, histories, outcome, options)
                found.append(asdict(outcome))
            return found

        for fields in Child(play).result():
            results.add(Outcome(**fields))
        if options.first and results.violations:
            return


def _build(setting: Setting) -> Any:
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    return build(setting)


def _say(outcome: Outcome) -> None:
    at = f"{outcome.cpu:.1f} s of CPU, {outcome.virtual:.0f} s virtual, {outcome.digest}"
    print(f"{outcome.seed}: {outcome.sentence[:400]} ({at})", flush=True)


def _show(
    built: Any, histories: list[History], outcome: Outcome, options: argparse.Namespace
) -> None:
    """The fewest events that still break the same invariant, and what happens in them."""
    history = next(history for history in histories if history.seed == outcome.seed)
    if options.no_shrink:
        print(outcome.text or outcome.sentence)
        return
    started = time.monotonic()
    # What would have happened after it is no cause.
    before = tuple(event for event in history.events if event.at <= outcome.virtual)
    history = History(history.seed, before)
    history = shrink(history, lambda tried: run(built, tried).kind == outcome.kind)
    print(f"shrunk to {len(history.events)} events in {time.monotonic() - started:.0f} s")
    again = run(built, history, traced=True)
    print("\n".join(["events:", *history.dump(), "what happens:", *again.trace[-_SHOWN:]]))
    print(again.text or again.sentence)
    if options.keep:
        case = {
            "kind": outcome.kind,
            "seed": history.seed,
            "setting": asdict(built.setting),
            "events": [json.loads(line) for line in history.dump()],
        }
        KEPT.mkdir(exist_ok=True)
        path = KEPT / f"{options.keep}.json"
        lines = json.dumps(case, indent=None).replace('"events": [', '"events": [\n  ')
        path.write_text(lines.replace("]], ", "]],\n  ").replace("}], ", "}],\n  ") + "\n")
        print(f"kept in {path}")


def replay(path: Path) -> int:
    """Play one kept case with its trace."""
    setting, history = load_case(path)
    built = _build(setting)
    outcome = run(built, history, traced=True)
    print("\n".join(outcome.trace))
    print(outcome.text or outcome.sentence)
    return 2 if outcome.broken else 1 if outcome.kind else 0


def play_kept() -> int:
    """Play all kept cases; the exit code."""
    cases: dict[Setting, dict[str, History]] = {}
    for path in sorted(KEPT.glob("*.json")):
        setting, history = load_case(path)
        cases.setdefault(setting, {})[path.stem] = history
    worst = 0
    for setting, histories in cases.items():

        def play(
            setting: Setting = setting, histories: dict[str, History] = histories
        ) -> list[str]:
            built, kinds = _build(setting), []
            for name, history in histories.items():
                outcome = run(built, history)
                print(f"{name}: {outcome.sentence}", flush=True)
                kinds.append(outcome.kind)
            return kinds

        kinds = Child(play).result()
        worst = max(worst, 2 if "broken" in kinds else 1 if any(kinds) else 0)
    return worst


def load_case(path: Path) -> tuple[Setting, History]:
    case = json.loads(path.read_text())
    lines = [json.dumps(event) for event in case["events"]]
    return Setting(**case["setting"]), History.load(case["seed"], lines)


def of_workers(profile: Profile, workers: int) -> Profile:
    """The same profile with groups of so many workers; as busy for each, and with as many tokens
    above one pool for each worker more."""
    setting = profile.setting
    more = workers / setting.workers
    changed = replace(setting, workers=workers, grown=setting.grown * (workers - 1))
    return replace(profile, setting=changed, arrivals=profile.arrivals * more**0.5)
