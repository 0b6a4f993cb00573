"""A worker dies or freezes: every client hears of it, and nothing of the server is left."""

import asyncio
import os
import signal
import time

from tests.serving.fault_cases import FLAGS, run_fault
from tests.serving.fault_clients import Ending, request
from tests.serving.load import new_session
from tests.serving.servers import Server

WORKERS = 2


def check_end_of_a_busy_joint_worker(server, fault):
    aftermath = run_fault(server, WORKERS, "joint busy", fault)
    assert len(aftermath.clients) == 2 * WORKERS
    assert not aftermath.problems(), f"{aftermath}\n{server.tail()}"


def test_a_freeze_of_a_busy_joint_worker_reaches_every_client(shallow_model):
    with Server("--tp-size", str(WORKERS), *FLAGS, model=shallow_model) as server:
        check_end_of_a_busy_joint_worker(server, "freeze")


def test_a_freeze_during_prepare_changes_nothing_and_a_kill_later_reaches_every_client(
    shallow_model,
):
    with Server(
        "--tp-size", str(WORKERS), *FLAGS, "--amoeba-prepare-timeout-s", "2", model=shallow_model
    ) as server:  # fmt: skip
        frozen = server.workers()[1]
        endings = asyncio.run(freeze_during_prepare(server, frozen.pid))
        assert [(e.name, e.error) for e in endings] == [(e.name, "") for e in endings]
        # The late vote for the abandoned operation must not disturb the next one.
        status, reply = server.transform([0, 1], 2)
        assert status == 200, reply
        assert server.generate("The capital of France is", 4)["meta_info"]["completion_tokens"] == 4
        assert server.transform([0, 1], 1)[0] == 200

        check_end_of_a_busy_joint_worker(server, "kill")


async def freeze_during_prepare(server, pid):
    """Streams on both ranks go on around a PREPARE that the frozen rank 1 cannot answer."""
    async with new_session() as session:
        endings = [Ending(f"stream-{rank}", asyncio.Event()) for rank in range(WORKERS)]
        tasks = [
            asyncio.create_task(request(session, server, ending, rank, True, tokens=300))
            for rank, ending in enumerate(endings)
        ]
        await asyncio.wait_for(asyncio.gather(*(e.started.wait() for e in endings)), 60)
        os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            status, reply = await asyncio.to_thread(server.transform, [0, 1], 2)
            waited = time.monotonic() - started
            state = await asyncio.to_thread(server.state)
        finally:
            os.kill(pid, signal.SIGCONT)
        assert status == 504, reply
        assert "no vote from ranks [1] within 2 s" in reply["error"]
        assert 1.9 < waited < 5
        assert [i["degree"] for i in state["instances"]] == [1, 1]
        assert state["operation"] is None
        return await asyncio.wait_for(asyncio.gather(*tasks), 120)
