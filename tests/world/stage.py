"""What all parts of a world share in a process: upstream's scheduler has no way to pass it."""

from typing import Any

import numpy as np


class Stage:
    """`play`: the history that plays now. `words`, `meetings`: what the workers share, made while
    they are built. `progress`: by rank, what each worker has done."""

    def __init__(self) -> None:
        self.play: Any = None
        self.words: dict[int, np.ndarray] = {}
        self.meetings: dict[tuple[str, tuple[int, ...]], Any] = {}
        self.progress: np.ndarray | None = None

    @property
    def playing(self) -> bool:
        return self.play is not None

    @property
    def loop(self) -> Any:
        return self.play.loop


STAGE = Stage()
