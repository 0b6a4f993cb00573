"""Plays seeds of profiles, and shows what breaks."""

import gc
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from tests.world import kept
from tests.world.events import History
from tests.world.profiles import PROFILES, Profile
from tests.world.results import Results
from tests.world.runner import NO_END, Child, Outcome, run, run_all
from tests.world.schedulers import build
from tests.world.setting import Setting
from tests.world.shrink import shrink
from tests.world.walk import draw

# Of a trace, as many of its last lines as are shown.
_SHOWN = 60


@dataclass(frozen=True)
class Campaign:
    """`jobs`: histories at a time. `first`: it ends with the first violation. `keep`: the first one
    is shrunk and kept under this name. `cpu_limit`: seconds in all, without building and imports;
    `ends`: when time.monotonic() says so."""

    results: Results
    jobs: int
    cpu_limit: float = float("inf")
    ends: float = float("inf")
    first: bool = False
    shrinks: bool = True
    keep: str = ""

    def play(self, chosen: Iterable[tuple[str, int]], workers: int) -> None:
        """Play those of (profile, seed) that have no result yet; workers of one Setting are built
        once."""
        by_setting: dict[Setting, list[tuple[str, int]]] = {}
        for name, seed in chosen:
            if not self.results.has(workers, f"{name}/{seed}"):
                setting = of_workers(PROFILES[name], workers).setting
                by_setting.setdefault(setting, []).append((name, seed))
        for setting, seeds in by_setting.items():
            if self.is_over():
                return
            # In a fork, since upstream's groups can be built once in a process.
            child = Child(lambda s=setting, some=seeds: self._play_setting(s, some, workers))
            for fields in child.result():
                self.results.add(Outcome(**fields))

    def is_over(self) -> bool:
        return self._is_over(self.results.cpu, bool(self.results.exit_code))

    def _is_over(self, cpu: float, broke: bool) -> bool:
        late = cpu >= self.cpu_limit or time.monotonic() >= self.ends
        return late or (self.first and broke)

    def _play_setting(
        self, setting: Setting, seeds: list[tuple[str, int]], workers: int
    ) -> list[dict[str, Any]]:
        built, found = build_quietly(setting), list[Outcome]()

        def feed() -> Iterator[History]:
            for name, seed in seeds:
                cpu = self.results.cpu + sum(outcome.cpu for outcome in found)
                if self._is_over(cpu, any(outcome.kind for outcome in found)):
                    return
                yield draw(of_workers(PROFILES[name], workers), name, seed)

        for outcome in run_all(built, feed(), self.jobs):
            outcome.workers = workers
            _say(outcome)
            if outcome.kind and not outcome.broken and not any(one.kind for one in found):
                self._show(built, outcome)
            found.append(outcome)
        return [asdict(outcome) for outcome in found]

    def _show(self, built: Any, outcome: Outcome) -> None:
        """The fewest events that still break the same invariant, and what happens in them."""
        name, seed = outcome.seed.split("/")
        history = draw(of_workers(PROFILES[name], outcome.workers), name, int(seed))
        if not self.shrinks or outcome.kind == NO_END:
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
        if self.keep:
            case = kept.Case(self.keep, outcome.kind, self.results.mutant, built.setting, history)
            print(f"kept in {case.write()}")


def build_quietly(setting: Setting) -> Any:
    """Workers; what they are made of is not looked through for garbage any more."""
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    built = build(setting)
    gc.collect()
    gc.freeze()
    return built


def _say(outcome: Outcome) -> None:
    at = f"{outcome.cpu:.1f} s of CPU, {outcome.virtual:.0f} s virtual, {outcome.digest}"
    print(f"{outcome.workers} {outcome.seed}: {outcome.sentence[:400]} ({at})", flush=True)


def of_workers(profile: Profile, workers: int) -> Profile:
    """The same profile with groups of so many workers, at most 8 in all; as busy for each, and with
    as many tokens above one pool for each worker more."""
    setting = profile.setting
    workers = min(workers, 8 // setting.groups)
    more = workers / setting.workers
    changed = replace(setting, workers=workers, grown=setting.grown * (workers - 1))
    return replace(profile, setting=changed, arrivals=profile.arrivals * more**0.5)
