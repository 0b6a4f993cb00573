"""python -m tests.world.commands: one process that has imported upstream and runs commands of
`python -m tests.world`, each in a fork; lines of JSON come in, arguments, and go out: exit code and
lines. For tests, which run many short ones."""

import json
import os
import sys
import tempfile
import traceback

from tests.world import environment
from tests.world.__main__ import main


def run(argv: list[str]) -> tuple[int, str]:
    """The exit code and what it has printed."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            code = 3
            try:
                code = main(argv)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(status), output.read().decode()


if __name__ == "__main__":
    environment.settle("tests.world.commands", [])
    environment.import_upstream()
    for line in sys.stdin:
        code, text = run(json.loads(line))
        print(json.dumps([code, text]), flush=True)
