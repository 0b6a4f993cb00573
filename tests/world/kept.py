"""Histories that were found once, as lists of events, so that they survive changes of the walk."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.world.events import History
from tests.world.setting import Setting

FOLDER = Path(__file__).parent / "kept"


@dataclass(frozen=True)
class Case:
    """`kind`: of the violation that it was found by, in the package of that time or, if `mutant` is
    not empty, with that mutant."""

    name: str
    kind: str
    mutant: str
    setting: Setting
    history: History

    def write(self) -> Path:
        head = {
            "kind": self.kind,
            "mutant": self.mutant,
            "seed": self.history.seed,
            "setting": asdict(self.setting),
        }
        events = ",\n  ".join(self.history.dump())
        FOLDER.mkdir(exist_ok=True)
        path = FOLDER / f"{self.name}.json"
        path.write_text(f'{json.dumps(head)[:-1]}, "events": [\n  {events}]}}\n')
        return path

    @classmethod
    def read(cls, path: Path) -> Case:
        case = json.loads(path.read_text())
        history = History.load(case["seed"], [json.dumps(event) for event in case["events"]])
        setting = Setting(**case["setting"])
        return cls(path.stem, case["kind"], case["mutant"], setting, history)


def all_cases() -> list[Case]:
    return [Case.read(path) for path in sorted(FOLDER.glob("*.json"))]
