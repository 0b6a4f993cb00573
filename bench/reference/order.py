"""Leave out each wait of the CUDA plane, one server each: python -m bench.reference.order

A server without faults counts its waits by name. Each is then left out of another server, which
must end with a Race: the REFERENCE device takes a kernel for running until somebody has waited for
it. Exit code 1 if a wait is not needed.
"""

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from amoeba_sglang.planes.reference.streams import OMIT
from bench import results_file
from bench.reference.servers import change, start
from tests.serving.load import chat_prompts
from tests.serving.servers import MODEL, Server
from tests.serving.shallow_model import make_shallow

_WAIT = "wait "
LAYERS = 4


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        model = str(make_shallow(folder, LAYERS, source_dir=MODEL))
        with begin(model) as server:
            serve(server)
            counts = server.state()["device"]
        waits = [name.removeprefix(_WAIT) for name in counts if name.startswith(_WAIT)]
        found = {}
        for wait in waits:
            found[wait] = race_without(wait, model)
            print(f"{wait}: {found[wait] or 'NOT NEEDED'}", flush=True)
    results_file.write("reference_order", {"waits": found})
    return int(None in found.values())


def begin(model: str, env: dict[str, str] | None = None) -> Server:
    # Those who audit wait as well.
    return start(
        "sm90",
        "bfloat16",
        model,
        flags=("--attention-backend", "trtllm_mha"),
        module="amoeba_sglang.launch_server",
        env=env,
    )


def serve(server: Server) -> None:
    """Streams through two merges and two splits, one of them without rows of its own."""
    with ThreadPoolExecutor(4) as pool:
        streams = [pool.submit(server.generate, prompt, 60) for prompt in chat_prompts(3)]
        for degree in (2, 1, 2, 1):
            change(server, [0, 1], degree)
        assert all(len(stream.result()["output_ids"]) == 60 for stream in streams)
    change(server, [0, 1], 2)
    server.generate("one stream alone", 20)
    change(server, [0, 1], 1)


def race_without(wait: str, model: str) -> str | None:
    """What the server that does not wait says; None if it serves all the same."""
    with begin(model, {OMIT: wait}) as server:
        try:
            serve(server)
        except (AssertionError, RuntimeError, OSError):
            lines = server.log.read_text().splitlines()
            races = [line.split("Race: ")[1] for line in lines if "Race: " in line]
            assert races, f"without {wait} it failed otherwise: {server.log}"
            return races[0]
    return None


if __name__ == "__main__":
    sys.exit(main())
