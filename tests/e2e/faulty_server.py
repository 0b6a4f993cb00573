"""The server with a worker that can be made to fail: python -m tests.e2e.faulty_server."""

import sys

from amoeba_sglang import launch_server
from amoeba_sglang.adapters import launch

if __name__ == "__main__":
    launch.EXTENSION_CLASSES["scheduler"] = "tests.e2e.faulty_worker.FaultyScheduler"
    sys.exit(launch_server.main(sys.argv[1:]))
