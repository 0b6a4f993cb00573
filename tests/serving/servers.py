"""Real servers as child processes, for benchmarks and end-to-end tests. 127.0.0.1 only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from amoeba_sglang.adapters.cpu import NAME, VARIABLE
from tests.serving.free_port import free_port

ROOT = Path(__file__).resolve().parents[2]
MODEL = os.environ.get("AMOEBA_TEST_MODEL", ".cache/models/smollm2-135m-kv4")
# Of a start: processor seconds that it may take, some ten times what it does, and for how long it
# may use next to none. A machine that is busy with other things makes it late, which is no failure.
START_CPU_S = 900.0
START_IDLE_S = 120.0
# Servers choose ports for their workers above these.
PORTS = (10000, 19999)


class Server:
    """A server process: `module` is "amoeba_sglang.launch_server" or "sglang.launch_server".

    Started on enter, waited for, and reaped with all its children on exit. `patience_s`: for the
    answer to a POST.
    """

    def __init__(
        self,
        *args: str,
        module: str = "amoeba_sglang.launch_server",
        model: str = MODEL,
        env: dict[str, str] | None = None,
        patience_s: float = 120.0,
        port: int | None = None,
    ) -> None:
        self.patience_s = patience_s
        self.port, self.model = port or free_port(*PORTS), model
        self.url = f"http://127.0.0.1:{self.port}"
        self.command = [
            sys.executable, "-m", module, "--model-path", model, "--device", "cpu",
            "--host", "127.0.0.1", "--port", str(self.port), *args,
        ]  # fmt: skip
        self.env = {**os.environ, "HF_HUB_OFFLINE": "1", **(env or {})}
        if module.startswith("sglang"):
            self.env.setdefault(VARIABLE, NAME)
            self.env.setdefault("SGLANG_USE_CPU_ENGINE", "0")
        self.log = Path(tempfile.mkstemp(prefix="amoeba-server-", suffix=".log")[1])
        self.start_seconds = 0.0

    def __enter__(self) -> Server:
        started = time.monotonic()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=subprocess.STDOUT, env=self.env,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        self.start_seconds = time.monotonic() - started
        return self

    def _wait_ready(self) -> None:
        used, since = 0.0, time.monotonic()
        while used < START_CPU_S and time.monotonic() < since + START_IDLE_S:
            if (now := self.cpu_seconds()) > used + 1:
                used, since = now, time.monotonic()
            if self.process.poll() is not None:
                raise RuntimeError(f"server exited {self.process.returncode}:\n{self.tail()}")
            try:
                with urllib.request.urlopen(f"{self.url}/health_generate", timeout=5) as reply:
                    if reply.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                time.sleep(0.25)
        raise TimeoutError(f"not ready after {used:.0f} s on the processors:\n{self.tail()}")

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Terminate the server, then kill whatever of its tree is left."""
        tree = self.processes()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                pass
        for process in tree:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self.process.wait(10)

    def processes(self) -> list[psutil.Process]:
        """The server's process and all its descendants."""
        try:
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """Scheduler processes in rank order."""
        found = [p for p in self.processes() if "sglang::scheduler" in " ".join(p.cmdline())]
        return sorted(found, key=lambda p: " ".join(p.cmdline()))

    def cpu_seconds(self) -> float:
        """What its processes have used."""
        times = []
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                times.append(process.cpu_times())
        return sum(t.user + t.system for t in times)

    def tail(self, lines: int = 60) -> str:
        """The last lines of the log, for results and messages: without the checkout's own path."""
        text = "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return text.replace(f"{ROOT}/", "")

    def get(self, path: str, timeout: float = 30.0) -> Any:
        return self._call(urllib.request.Request(self.url + path), timeout)[1]

    def post(
        self,
        path: str,
        body: Any,
        timeout: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, Any]:
        """(status, decoded JSON) of a POST; error statuses are returned, not raised."""
        request = urllib.request.Request(
            self.url + path,
            json.dumps(body).encode(),
            {"Content-Type": "application/json", **(headers or {})},
        )
        return self._call(request, timeout or self.patience_s)

    def _call(self, request: urllib.request.Request, timeout: float) -> tuple[int, Any]:
        try:
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                status, text = reply.status, reply.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        try:
            return status, json.loads(text)
        except json.JSONDecodeError:
            return status, text.decode(errors="replace")

    def transform(self, ranks: list[int], degree: int, **more: Any) -> tuple[int, Any]:
        return self.post("/amoeba/transform", {"ranks": ranks, "degree": degree, **more})

    def state(self) -> dict[str, Any]:
        return self.get("/amoeba/state")

    def wait_until_idle(self, seconds: float = 60.0) -> None:
        """Wait for the end of requests that clients have left; TimeoutError after `seconds`."""
        deadline = time.monotonic() + seconds
        while any(i["running"] + i["queued"] for i in self.state()["instances"]):
            if time.monotonic() > deadline:
                raise TimeoutError(f"requests still run after {seconds:.0f} s: {self.state()}")
            time.sleep(0.2)
        # Reports come a little later than what they are of.
        time.sleep(1.0)

    def generate(self, text: str | list[int], new_tokens: int, **params: Any) -> dict[str, Any]:
        """One greedy completion through SGLang's native endpoint, with `meta_info`."""
        body: dict[str, Any] = {
            "sampling_params": {"max_new_tokens": new_tokens, "temperature": 0, "ignore_eos": True},
            **params,
        }
        body["text" if isinstance(text, str) else "input_ids"] = text
        status, reply = self.post("/generate", body)
        if status != 200:
            raise RuntimeError(f"/generate answered {status}: {reply}")
        return reply

    def score(self, text: str | list[int], **route: int) -> list[float]:
        """Log-probability of every token but the first, given those before it."""
        reply = self.generate(text, 1, return_logprob=True, logprob_start_len=0, **route)
        return [value for value, *_ in reply["meta_info"]["input_token_logprobs"][1:]]
