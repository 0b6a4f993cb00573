"""Fast tests first: a pure failure shows in seconds, before any server has started."""


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: "e2e" in item.path.parts)
