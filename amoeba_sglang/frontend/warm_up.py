"""Measures what steps cost at every degree before a server is said to be ready."""

import json
import logging
import random
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import Any

from amoeba_sglang.config import AmoebaConfig
from amoeba_sglang.errors import AmoebaError

logger = logging.getLogger(__name__)

# (requests at a time, prompt tokens, output tokens): enough to tell the parts of a cost apart.
_PASSES = ((1, 16, 12), (8, 16, 12), (4, 256, 12), (1, 1024, 12))
_TIMEOUT_S = 600.0
_TRIES = 20


def measure_throughput(server_args: Any, config: AmoebaConfig, most_tokens: int) -> None:
    """Run the first instance of the server at every degree for a moment, bring it back, and write
    the table to its file. A server that cannot be measured serves without.

    `most_tokens`: of a request that a worker holds.
    """
    server, file = _Server(server_args), config.throughput_file
    assert file is not None
    try:
        for degree in config.degrees:
            server.change(degree, degree)
            for requests, prompt, output in _PASSES:
                server.generate(requests, min(prompt, most_tokens // (2 * requests)), output)
        server.change(config.group_size, config.initial_degree)
        table = server.complete_table()
        with open(file, "w") as out:
            json.dump(table, out, indent=1)
    except (OSError, AmoebaError) as error:
        logger.error("--amoeba-throughput-table %s: was not measured: %s", file, error)


class _Server:
    """This server, by HTTP."""

    def __init__(self, server_args: Any) -> None:
        self._url, self._key = server_args.url(), server_args.api_key
        self._admin_key = server_args.admin_api_key or server_args.api_key
        self._random = random.Random(0)

    def change(self, width: int, degree: int) -> None:
        """Bring the first `width` ranks to `degree`."""
        body = {"ranks": list(range(width)), "degree": degree}
        reply: dict[str, Any] = {}
        for _ in range(_TRIES):
            # The policy may be changing the layout just now.
            reply = self.call("/amoeba/transform", body, self._admin_key)
            if reply.get("outcome") in ("done", "unchanged"):
                return
            time.sleep(1.0)
        raise AmoebaError(f"{body}: {reply.get('error')}")

    def generate(self, requests: int, prompt: int, output: int) -> None:
        """As many requests at a time at rank 0, with tokens that no cache knows."""
        body = {
            "input_ids": [
                self._random.choices(range(100, 1000), k=prompt) for _ in range(requests)
            ],
            "sampling_params": {"max_new_tokens": output, "ignore_eos": True, "temperature": 0},
            "routed_dp_rank": 0,
        }
        self.call("/generate", body, self._key)

    def complete_table(self) -> dict[str, Any]:
        """Workers report at their own pace."""
        for _ in range(_TRIES):
            table = self.call("/amoeba/state", key=self._key)["throughput"]
            if table is not None and table["complete"]:
                return table
            time.sleep(1.0)
        raise AmoebaError(f"some degrees were not measured: {table and table['source']}")

    def call(self, path: str, body: Any = None, key: str | None = None) -> Any:
        """The JSON answer to a POST, or to a GET without a body."""
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:
                return json.load(reply)
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.CONFLICT:
                return json.load(error)
            raise
