"""Fast tests first: a pure failure shows in seconds, before any server has started."""

import os

from amoeba_sglang.adapters.cpu import NAME, VARIABLE

# Parts of SGLang that run in this process do so on our platform, which answers only when named.
os.environ.setdefault(VARIABLE, NAME)

# Files that share a server follow one another, and the last of them ends it: the memory of the
# machine holds few at a time.
LAST = (
    "test_world.py",
    # `quartet`
    "test_staggered.py",
    "test_mid_layouts.py",
    "test_orders_beside_work.py",
    "test_freeze.py",
    # `automatic_servers`; what is right says `pair`
    "test_automatic_layout.py",
    "test_gateway.py",
    # `pair`, at last with `narrow_pair`
    "test_reference_device.py",
    "test_hostile_requests.py",
    "test_loads.py",
    "test_hostile.py",
    "test_long_requests.py",
    "test_map_faults.py",
    "test_kill.py",
)


def pytest_collection_modifyitems(items):
    def place(item):
        name = item.path.name
        return "e2e" in item.path.parts, LAST.index(name) if name in LAST else -1

    items.sort(key=place)
