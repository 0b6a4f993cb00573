"""python -m tests.serving.audited: the server, with workers that audit themselves."""

import sys

from amoeba_sglang import launch_server
from amoeba_sglang.adapters import launch

if __name__ == "__main__":
    launch.EXTENSION_CLASSES["scheduler"] = "tests.serving.audited.worker.AuditedScheduler"
    sys.exit(launch_server.main(sys.argv[1:]))
