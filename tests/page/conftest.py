"""The page in a real browser: `make test-page`. Not a part of `make test`, which has no browser."""

import pytest

from amoeba_sglang.errors import ConfigError
from tests.serving.browser import LAPTOP, open_browser
from tests.serving.load import chat_prompts
from tests.serving.servers import Server

POOL = 1024
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def browser():
    try:
        with open_browser() as running:
            yield running
    except ConfigError as error:
        pytest.exit(str(error), returncode=2)


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
