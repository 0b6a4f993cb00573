"""`python -m amoeba_sglang.top URL`: a server's layout, load and decisions, as they change.

What the page at /amoeba shows, in a terminal; Ctrl-C ends it. Where the output is no terminal, or
with --once, one screen is printed.
"""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.live import Live

from amoeba_sglang.errors import ConfigError
from amoeba_sglang.top.events import ConnectionLost, follow
from amoeba_sglang.top.history import History
from amoeba_sglang.top.screen import draw

_KEY = "AMOEBA_API_KEY"
_AGAIN_SECONDS = 1.0
# A view has no figures of speed yet.
_EVENTS_OF_ONE_SCREEN = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """0; 1 if the connection is lost before a screen; 2 for bad input. Both in one line."""
    parser = argparse.ArgumentParser(
        prog="python -m amoeba_sglang.top",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("url", metavar="URL", help="of the server, as its ready line says")
    parser.add_argument(
        "--api-key",
        default=os.environ.get(_KEY, ""),
        metavar="KEY",
        help=f"that of the server's --api-key (default: {_KEY} of the environment, which others "
        "on the machine do not see)",
    )
    parser.add_argument("--once", action="store_true", help="print one screen and end")
    options = parser.parse_args(arguments)
    console = Console()
    try:
        if options.once or not console.is_terminal:
            print_once(console, options.url, options.api_key)
        else:
            watch(console, options.url, options.api_key)
    except (ConfigError, ConnectionLost) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1 if isinstance(error, ConnectionLost) else 2
    except KeyboardInterrupt:
        pass
    return 0


def print_once(console: Console, url: str, key: str) -> None:
    for number, history in enumerate(histories(url, key), 1):
        if number == _EVENTS_OF_ONE_SCREEN:
            console.print(draw(history, width=console.width, lines=60))
            return


def watch(console: Console, url: str, key: str) -> None:
    """Until it is interrupted; a connection that is lost later is tried again."""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        history: History | None = None
        while True:
            try:
                for history in histories(url, key):
                    shown = draw(history, width=console.width, lines=console.height)
                    live.update(shown, refresh=True)
            except ConnectionLost as error:
                if history is None:
                    raise
                history.trouble = f"{error}; trying again"
                shown = draw(history, width=console.width, lines=console.height)
                live.update(shown, refresh=True)
            time.sleep(_AGAIN_SECONDS)


def histories(url: str, key: str) -> Iterator[History]:
    """The same one after every event; ConfigError and ConnectionLost as of `follow`."""
    history: History | None = None
    for name, data in follow(url, key):
        if name == "view":
            history = History.of_view(data)
        elif history is not None:
            history.take(name, data)
        if history is not None:
            yield history


if __name__ == "__main__":
    sys.exit(main())
