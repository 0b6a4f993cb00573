"""One run: a server, its load, who changes its layout, and what came of it."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench import footprint
from bench.soak.cases import Case
from bench.soak.load import Load
from bench.soak.log import ServerLog
from bench.soak.reference import References
from bench.soak.walk import Tour, Walk, Waves
from tests.serving.servers import Server

_QUIET_EVERY = 40
_SAMPLE_S = 10.0
_REPORT_S = 30.0
_FLUSH_SHARE = 0.1
_KEPT = 20


@dataclass(frozen=True)
class Setting:
    """What sums are kept apart by. `layers`: of the model, 0 for all of them."""

    workers: int
    policy: str
    layers: int
    layers_per_step: str

    def __str__(self) -> str:
        model = f"{self.layers} layers" if self.layers else "all layers"
        return f"N={self.workers}, {self.policy}, {model}, {self.layers_per_step} a step"


class Run:
    """Changes and load on one server until `transformations`, a time, or a fault."""

    def __init__(
        self,
        server: Server,
        setting: Setting,
        cases: list[Case],
        references: References,
        *,
        clients: int,
        seed: int,
    ) -> None:
        self.server, self.setting = server, setting
        self._cases, self._references = cases, references
        self._clients, self._seed = clients, seed
        self._rng = random.Random(seed)
        self.log, self.walk = ServerLog(server.log), Walk(server, self._rng)
        self.problems: list[dict[str, Any]] = []
        self.samples: list[tuple[float, dict[str, Any]]] = []
        self._load: Load | None = None
        self._started, self._quiet, self._reported = time.monotonic(), 0, 0.0

    async def go(self, transformations: int, seconds: float) -> None:
        load = self._load = Load(
            self.server.url, self._cases, self._references, self._clients, self._seed,
            may_refuse=self.setting.policy == "static",
        )  # fmt: skip
        changer = (Tour if load.may_refuse else Waves)(self.walk, load, self._rng)
        watch = asyncio.create_task(self._watch())
        end, quiet_at = self._started + seconds, _QUIET_EVERY
        try:
            while self.log.transformations < transformations and time.monotonic() < end:
                await changer.step()
                if self._rng.random() < _FLUSH_SHARE:
                    await load.flush()
                self.log.follow()
                if self.log.transformations >= quiet_at:
                    quiet_at = self.log.transformations + _QUIET_EVERY
                    await self._be_quiet(load)
                if self._is_over(load):
                    return
            await self._be_quiet(load)
        except (OSError, TimeoutError, ValueError) as error:
            self._complain(f"{type(error).__name__}: {error}")
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await load.close()
            self.log.follow()

    def _is_over(self, load: Load) -> bool:
        if self.server.process.poll() is not None:
            self._complain("the server ended")
        return bool(self.problems or load.problems or self.walk.problems)

    def _complain(self, what: str) -> None:
        self.problems.append({"kind": "server", "what": what, "at": time.time()})
        print(f"PROBLEM {what}", flush=True)

    async def _watch(self) -> None:
        while True:
            now = time.monotonic()
            taken = await asyncio.to_thread(footprint.sample, self.server)
            self.samples.append((self.log.transformations, taken))
            if now - self._reported > _REPORT_S:
                self._reported = now
                self._report()
            await asyncio.sleep(_SAMPLE_S)

    def _report(self) -> None:
        totals: Counter[str] = Counter()
        for (_, outcome), count in self._load.outcomes.items():
            totals[outcome] += count
        print(
            f"{time.monotonic() - self._started:.0f} s: {self.log.transformations} "
            f"transformations, orders {dict(self.walk.outcomes)}, requests {dict(totals)}, "
            f"retracted {self.log.events['requests retracted']}, "
            f"lent {self.log.events['slots lent: times']}",
            flush=True,
        )

    async def _be_quiet(self, load: Load) -> None:
        """Drain, look for what is left, merge and split without load, and go on.

        Every second time aborts what runs instead of letting it end.
        """
        self._quiet += 1
        await load.pause(abort=self._quiet % 2 == 0)
        await asyncio.to_thread(self.server.wait_until_idle, 60.0)
        await self.walk.settle(1)
        self.log.follow()
        before = self.log.digests_taken()
        degree = self._rng.choice(self.walk.chain.degrees[1:])
        await self.walk.settle(degree)
        await self.walk.settle(1)
        self.log.follow()
        for change in self.log.changes_since(before):
            self._complain(change)
        self._report()
        await load.flush()
        load.resume()

    def figures(self) -> dict[str, Any]:
        load, log, walk = self._load, self.log, self.walk
        made = [r for r in log.records if r["outcome"] == "done"]
        problems = [*self.problems, *load.problems]
        problems += [{"kind": "order", "what": what} for what in walk.problems]
        problems += [{"kind": "content", "what": what} for what in log.content_problems()]
        requests: dict[str, dict[str, int]] = {}
        for (kind, outcome), count in sorted(load.outcomes.items()):
            requests.setdefault(kind, {})[outcome] = count
        return {
            "problems": problems[:_KEPT],
            "server_log_tail": self.server.tail(60).splitlines() if problems else [],
            "minutes": round((time.monotonic() - self._started) / 60, 1),
            "transformations": log.transformations,
            "quiet_spells": self._quiet,
            "orders": dict(walk.outcomes),
            "requests": requests,
            "events": dict(sorted(log.events.items())),
            "worst_log_probability": load.worst_score,
            "at_each_boundary": log.table(),
            "seconds": {
                name: quantiles([record[name] for record in made])
                for name in (
                    "seconds", "prepare_seconds", "lockstep_seconds", "longest_step_seconds"
                )
            },
            "token_gaps": self._gaps(),
            "growth_per_100_transformations": footprint.growth(self.samples, 100),
        }  # fmt: skip

    def _gaps(self) -> dict[str, Any]:
        """Times between two chunks of a stream: those that overlap an order, and the others."""
        if not self._load.gaps:
            return {}
        gaps = np.array(sorted(self._load.gaps, key=lambda gap: gap[1]))
        crosses = np.zeros(len(gaps), dtype=bool)
        for made in self.walk.made:
            crosses |= (gaps[:, 0] < made["answered"]) & (gaps[:, 1] > made["posted"])
        lengths = gaps[:, 1] - gaps[:, 0]
        return {"over_an_order": quantiles(lengths[crosses]), "else": quantiles(lengths[~crosses])}


def quantiles(values: Any) -> dict[str, float]:
    """Count, p50, p99 and maximum."""
    if len(values) == 0:
        return {"count": 0}
    p50, p99 = np.percentile(values, [50, 99])
    return {
        "count": len(values),
        "p50": round(float(p50), 5),
        "p99": round(float(p99), 5),
        "max": round(float(np.max(values)), 5),
    }
