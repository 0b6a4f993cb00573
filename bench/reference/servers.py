"""Servers on the REFERENCE device or the CPU, and how they are asked."""

from collections.abc import Sequence
from typing import Any

from tests.serving.servers import Server

POOL = 768


AUDITED = "tests.serving.audited"


def start(
    kind: str | None,
    dtype: str,
    model: str,
    workers: int = 2,
    *,
    flags: Sequence[str] = (),
    module: str = AUDITED,
    env: dict[str, str] | None = None,
) -> Server:
    """With small pools; layouts change only when it is asked for. `kind`: of the GPU that is stood
    for, None for the CPU; `flags`: where they are not the usual ones; `module`: what is started."""
    device = {} if kind is None else {"device": "cuda", "amoeba-reference-device": kind}
    usual = {
        "tp-size": workers,
        **device,
        "dtype": dtype,
        "max-total-tokens": POOL,
        "chunked-prefill-size": 128,
        "max-running-requests": 16,
        "amoeba-policy": "static",
    }
    given = [word for name, value in usual.items() for word in (f"--{name}", str(value))]
    # A step of the whole model takes seconds here, and 32 streams take turns.
    return Server(
        *given,
        *flags,
        "--skip-server-warmup",
        model=model,
        module=module,
        env=env,
        patience_s=1800.0,
    )


def change(server: Server, ranks: list[int], degree: int) -> dict[str, Any]:
    """The finished transformation; AssertionError unless it was done."""
    status, reply = server.transform(ranks, degree)
    assert status == 200 and reply["outcome"] == "done", (status, reply)
    return reply
