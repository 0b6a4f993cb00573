"""The system's Chromium, for tests of the page, its picture and its measurement."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from amoeba_sglang.errors import ConfigError

LAPTOP = {"width": 1280, "height": 720}


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A headless one; ConfigError names the Debian package if there is none."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        raise ConfigError(
            "chromium: not found; install the Debian package chromium, or name the browser's file "
            "in CHROMIUM"
        )
    with sync_playwright() as driver:
        # A sandbox of its own cannot be had by root, nor in many containers.
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()
