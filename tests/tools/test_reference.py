"""docs/reference.md is what the code says."""

import re

from fastapi import FastAPI

from amoeba_sglang.adapters.frontend.routes import add_routes
from amoeba_sglang.frontend.pages import page_files
from tools import reference


def test_the_page_is_up_to_date():
    assert reference.PAGE.read_text() == reference.make_page(), "python -m tools.reference"


def test_every_endpoint_of_ours_is_there():
    app = FastAPI(openapi_url=None)
    add_routes(app, ask=None, feed=None)
    made = {
        f"{method} {route.path}"
        for route in app.routes
        for method in route.methods - {"HEAD"}
        if route.path not in page_files()
    }
    assert made == set(reference.OURS)


def test_every_metric_has_a_row():
    assert len(reference._metrics()) == 9


def test_links_between_pages_lead_somewhere():
    root = reference.PAGE.parents[1]
    pages = [root / "README.md", root / "bench/README.md", *(root / "docs").glob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#:\s]+)[^)]*\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
