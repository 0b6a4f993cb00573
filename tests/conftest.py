"""Fast tests first: a pure failure shows in seconds, before any server has started."""

import os

from amoeba_sglang.adapters.cpu import NAME, VARIABLE

# Parts of SGLang that run in this process do so on our platform, which answers only when named.
os.environ.setdefault(VARIABLE, NAME)

SHARED_SERVERS = {"roomy_server", "automatic_servers", "pair"}


def pytest_collection_modifyitems(items):
    """Servers that several files share run until the end, so those files come last."""
    shared = {item.path for item in items if SHARED_SERVERS & set(item.fixturenames)}

    def place(item):
        parts = item.path.parts
        return "e2e" in parts, item.path.name == "test_world.py", item.path in shared

    items.sort(key=place)
