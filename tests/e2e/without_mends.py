"""Runs regression tests of mends that only a real server shows, each without its mend.

    python -m tests.e2e.without_mends [NAME ...]

Every test named must fail then. Takes a server start for each, so it is no part of `make test`; run
it after a change of what is listed here. Prints a line each; exit code 1 if a test passed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from tests.world.mutants.faults import FAULTS
from tests.world.mutants.files import BUDGET, SCHEDULER
from tests.world.mutants.mutant import PACKAGE, ROOT, Mutant, one

_PARTS = (PACKAGE, "bench", "docs", "patches", "tests", "tools")
_FILES = ("pyproject.toml", "Makefile", "README.md")
_TIMEOUT_S = 900


@dataclass(frozen=True)
class Mend:
    """Without it, each of `tests`, of the folder of that name, fails."""

    missing: Mutant
    tests: tuple[str, ...]


_SHARES_A_SERVER = Mutant(
    "Weights are read in the store's order; pages of other sites are let in; nothing limits who "
    "waits in the router; every worker flushes for itself; a body may be nested without end.",
    (
        (
            "adapters/worker/weight_names.py",
            "list(layers) if name is None else layer_of(layers, name)",
            "[]",
        ),
        ("adapters/launch.py", "    http_server.app.add_middleware(Gate)\n", ""),
        (
            "adapters/router/translation.py",
            'config.workers, worker["max_queued"], waiting_s if waiting_s > 0 else None',
            "config.workers",
        ),
        (
            "control/router/desk.py",
            "        self._flush.start(event.timeout_s, event.payload, now)\n        return []\n",
            "        return [Forward(event.payload)]\n",
        ),
        (
            "control/router/transform_request.py",
            '    except RecursionError:\n        raise _bad("the body is nested too deeply") from '
            "None\n",
            "",
        ),
    ),
)

MENDS = {
    "loads-opened-late": Mend(
        one(
            "The router opens the file of loads when the first request comes.",
            "adapters/router/controller.py",
            "        self.load_snapshot_reader.read_all()\n        truncates",
            "        truncates",
        ),
        ("e2e/test_loads.py::test_a_request_that_has_ended_is_no_load",),
    ),
    "aborts-by-prefix": Mend(
        Mutant(
            "An abort ends all whose id begins so, and the parts of a batch have no other name.",
            (
                ("adapters/worker/request_intake.py", "        recv_req.exact = True\n", ""),
                (
                    "frontend/batches.py",
                    "for part in batch.parts if name in batch.names_of(part)",
                    "for part in batch.parts if name == part",
                ),
            ),
        ),
        (
            "e2e/test_hostile_requests.py::test_an_abort_ends_the_one_that_is_named",
            "e2e/test_hostile_requests.py::test_the_id_of_a_batch_ends_its_parts",
        ),
    ),
    "endless-stop-regex": Mend(
        one(
            "A search may take for ever.",
            "adapters/worker/stop_search.py",
            "regex.search(pattern, text, timeout=self._seconds)",
            "regex.search(pattern, text)",
        ),
        (
            "e2e/test_hostile_requests.py::"
            "test_a_stop_regex_that_backtracks_for_ever_ends_its_own_request_alone[degree 1]",
        ),
    ),
    "bodies-unchecked": Mend(
        one(
            "Bodies are read as upstream reads them.",
            "adapters/launch.py",
            "    check_bodies(http_server.app, lambda: manager().model_config.vocab_size)\n",
            "",
        ),
        (
            "e2e/test_hostile_requests.py::test_hostile_requests_are_refused_by_name_and_nobody_notices",
        ),
    ),
    "profiler-ends-worker": Mend(
        one(
            "What the profiler cannot do is an exception of the worker.",
            "adapters/worker/control_requests.py",
            "            return io_struct.ProfileReqOutput(success=False, message=str(error))\n",
            "            raise error\n",
        ),
        ("adapters/worker/test_control_requests.py::test_a_profiler_that_fails_ends_no_worker",),
    ),
    "control-endpoints": Mend(
        _SHARES_A_SERVER,
        tuple(
            f"e2e/test_control_endpoints.py::{name}"
            for name in (
                "test_weights_are_right_or_refused[degree 1]",
                "test_a_busy_worker_keeps_all_caches_and_is_named",
                "test_pages_of_other_sites_are_kept_from_control_endpoints",
                "test_any_body_of_a_transform_is_a_client_error",
                "test_limits_of_waiting_hold_in_the_router",
            )
        ),
    ),
    "gauges-of-own-slots": Mend(
        one(
            "Gauges count own slots alone.",
            SCHEDULER,
            "ElasticPoolStatsObserver.around(self.pool_stats_observer)",
            "self.pool_stats_observer",
        ),
        ("e2e/test_long_requests.py::test_tokens_on_grown_slots_are_in_all_gauges",),
    ),
    "capacity-at-start": Mend(
        one(
            "What a worker holds is said as it was at its start.",
            "adapters/worker/control_requests.py",
            '        output.internal_state["memory_usage"]["token_capacity"] = tokens\n',
            "",
        ),
        ("e2e/test_long_requests.py::test_tokens_on_grown_slots_are_in_all_gauges",),
    ),
    "fixed-patience": Mend(
        one(
            "Peers are waited for by the clock, for less than a step may take.",
            "adapters/worker/connections.py",
            "limits = config.watchdog_timeout_s,",
            "limits = 1.0,",
        ),
        ("e2e/test_orders_beside_work.py::test_a_worker_in_a_slow_step_is_waited_for",),
    ),
    "prepare-takes": Mend(
        Mutant(
            "PREPARE takes slots away, and a prompt that has begun is no less computed.",
            (
                *FAULTS["fault-1-prepare-takes"].changes,
                (
                    BUDGET,
                    "        self._parked = tokens <= 0\n"
                    "        return None if self._parked else tokens\n",
                    "        return wanted\n",
                ),
            ),
        ),
        (
            "e2e/test_orders_beside_work.py::"
            "test_a_merge_asked_for_during_a_long_prompt_leaves_every_token_as_it_was",
        ),
    ),
}


def passed_without(mend: Mend) -> tuple[list[str], str]:
    """Tests that pass although their mend is missing, or say nothing, and what pytest printed."""
    with tempfile.TemporaryDirectory(prefix="amoeba-unmended-") as folder:
        here = Path(folder)
        for part in _PARTS:
            shutil.copytree(ROOT / part, here / part)
        for file in _FILES:
            shutil.copy(ROOT / file, here / file)
        mend.missing.apply(here / PACKAGE)
        result = here / "result.xml"
        tests = [f"tests/{test}" for test in mend.tests]
        # First of all paths, also in the servers: an editable install names the checkout itself.
        env = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={result}", *tests]
        done = subprocess.run(
            command, cwd=here, env=env, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
        if not result.exists():
            return list(mend.tests), done.stdout + done.stderr
        cases = list(ElementTree.parse(result).iter("testcase"))
        passed = [str(case.get("name")) for case in cases if case.find("failure") is None]
        return passed if cases else list(mend.tests), done.stdout


def main() -> int:
    names = sys.argv[1:] or list(MENDS)
    bad = 0
    for name in names:
        passed, printed = passed_without(MENDS[name])
        bad += bool(passed)
        print(f"{name}: {'NOT FAILED: ' + ', '.join(passed) if passed else 'all fail'}", flush=True)
        if passed or os.environ.get("VERBOSE"):
            print(printed[-2000:], flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
