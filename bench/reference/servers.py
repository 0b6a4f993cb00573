"""Servers on the REFERENCE device, and how they are asked."""

from typing import Any

from tests.serving.servers import Server

POOL = 768


def start(
    kind: str, dtype: str, model: str, workers: int = 2, env: dict[str, str] | None = None
) -> Server:
    """With small pools and slots that are audited; layouts change only when it is asked for."""
    return Server(
        "--tp-size", str(workers), "--device", "cuda", "--amoeba-reference-device", kind,
        "--dtype", dtype, "--max-total-tokens", str(POOL), "--chunked-prefill-size", "128",
        "--max-running-requests", "16", "--amoeba-policy", "static", "--skip-server-warmup",
        model=model, module="tests.serving.audited", env=env,
    )  # fmt: skip


def change(server: Server, ranks: list[int], degree: int) -> dict[str, Any]:
    """The finished transformation; AssertionError unless it was done."""
    status, reply = server.transform(ranks, degree)
    assert status == 200 and reply["outcome"] == "done", (status, reply)
    return reply
