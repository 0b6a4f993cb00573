"""Make README's picture: the page of a server that has just merged workers for a long prompt.

    python -m tools.page_picture

Needs the Debian package chromium. Chats run beside documents as in `make demo`; the picture is of
the second document while it has its workers, and README's caption gets the commit.
"""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from playwright.sync_api import Page

from amoeba_sglang.errors import ConfigError
from tests.serving.browser import LAPTOP, open_browser
from tests.serving.servers import Server
from tools.demo import Demo

ROOT = Path(__file__).parents[1]
PICTURE, README = ROOT / "docs/figures/page.png", ROOT / "README.md"
_CHATS, _POOL = 6, 1024
_FLAGS = (
    "--tp-size", "4", "--dtype", "float32", "--max-total-tokens", str(_POOL),
    "--chunked-prefill-size", "64", "--enable-mixed-chunk",
)  # fmt: skip


def main() -> int:
    try:
        with open_browser() as browser, Server(*_FLAGS) as server:
            page = browser.new_page(viewport=LAPTOP)
            page.goto(f"{server.url}/amoeba")
            take(Demo(server.url), page)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    text = re.sub(r"(`make page-picture` at )\w+", rf"\g<1>{commit}", README.read_text())
    README.write_text(text)
    return 0


def take(demo: Demo, page: Page) -> None:
    """Two documents with a pause between them, beside chats; the second one's merge is shown."""
    chats = [threading.Thread(target=demo.chat, args=(number,)) for number in range(_CHATS)]
    for chat in chats:
        chat.start()
    try:
        time.sleep(20)
        demo.document(_POOL * 3 // 2)
        page.wait_for_timeout(25_000)
        second = threading.Thread(target=demo.document, args=(_POOL * 5 // 2,))
        second.start()
        page.wait_for_function(
            "() => document.querySelector('#long').innerText.includes('at rank')", timeout=120_000
        )
        page.wait_for_timeout(4_000)
        page.screenshot(path=PICTURE)
        second.join()
    finally:
        demo.over.set()
        for chat in chats:
            chat.join()


if __name__ == "__main__":
    sys.exit(main())
