import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import psutil

from amoeba_sglang.frontend.ending import kill_children, watch_children


def test_a_stopped_child_is_reported_and_a_running_one_is_not():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
    child.start()
    reasons = []

    async def watch():
        task = asyncio.create_task(watch_children(2.0, reasons.append))
        await asyncio.sleep(1.2)
        assert reasons == []
        os.kill(child.pid, signal.SIGSTOP)
        await asyncio.wait_for(task, 5.0)

    try:
        asyncio.run(watch())
    finally:
        child.kill()
        child.join()
    assert reasons == [f"process {child.pid} of the server is frozen"]


def test_grandchildren_go_too():
    script = "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"
    code = (
        "import subprocess, sys\n"
        "from amoeba_sglang.frontend.ending import kill_children\n"
        f"subprocess.Popen([sys.executable, '-c', {script!r}])\n"
        "import psutil\n"
        "found = []\n"
        "while len(found) < 2:\n"
        "    found = psutil.Process().children(recursive=True)\n"
        "print(*[p.pid for p in found])\n"
        "kill_children()\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    pids = [int(word) for word in run.stdout.split()]
    assert len(pids) == 2, run.stderr
    assert not any(_runs(pid) for pid in pids)


def _runs(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_without_children_nothing_happens():
    assert kill_children() is None
