"""Sends hostile requests as they stand and reads whatever comes back."""

import time

import aiohttp
from yarl import URL

from bench.hostile.cases import Case, encode
from bench.hostile.oracle import Reply

ANSWER_S = 180.0


def new_client(answer_s: float = ANSWER_S) -> aiohttp.ClientSession:
    """A connection for every request: what one leaves behind cannot reach another."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=answer_s),
        connector=aiohttp.TCPConnector(limit=0, force_close=True),
    )


async def send(client: aiohttp.ClientSession, server: str, case: Case) -> Reply:
    """The answer to a case; an error, no answer in time among them, is in the reply."""
    return await _send(client, case.method, server + case.url, case.headers, case.body)


async def send_plain(client: aiohttp.ClientSession, server: str, case: Case) -> Reply:
    """The answer to the body that the case was made from."""
    headers = {"Content-Type": "application/json"}
    return await _send(client, case.method, server + case.route, headers, encode(case.plain))


async def _send(
    client: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str], body: bytes
) -> Reply:
    started = time.monotonic()
    try:
        async with client.request(
            method, URL(url, encoded=True), headers=headers, data=body or None
        ) as reply:
            text = await reply.read()
            return Reply(
                reply.status, reply.headers.get("Content-Type", ""), text,
                seconds=time.monotonic() - started,
            )  # fmt: skip
    except TimeoutError:
        error = f"no answer within {client.timeout.total:g} s"
    except (aiohttp.ClientError, OSError, ValueError) as failure:
        error = f"{type(failure).__name__}: {failure}"
    return Reply(0, error=error, seconds=time.monotonic() - started)
