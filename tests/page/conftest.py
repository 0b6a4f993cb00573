"""The page in a real browser: `make test-page`. Not a part of `make test`, which has no browser."""

import os
import shutil

import pytest
from playwright.sync_api import sync_playwright

from tests.serving.load import chat_prompts
from tests.serving.servers import Server

POOL = 1024
LAPTOP, PHONE = {"width": 1280, "height": 720}, {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def browser():
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.exit(
            "chromium: not found; install the Debian package chromium, or name the browser's file "
            "in CHROMIUM",
            returncode=2,
        )
    with sync_playwright() as driver:
        # A sandbox of its own cannot be had by root, nor in many containers.
        running = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def server():
    """Four workers, whose policy merges them for a long prompt."""
    flags = ("--tp-size", "4", "--dtype", "float32", "--max-total-tokens", str(POOL))
    with Server(*flags) as running:
        yield running


@pytest.fixture
def page(browser):
    """Collects what goes wrong in it as `problems`."""
    opened = browser.new_page(viewport=LAPTOP)
    opened.problems = []
    opened.on("pageerror", lambda error: opened.problems.append(str(error)))
    yield opened
    opened.close()


def wait_live(page):
    page.wait_for_function("() => document.querySelector('#connection').textContent === 'live'")


@pytest.fixture(scope="session")
def prompts():
    return chat_prompts(6)
