from fastapi import FastAPI
from sglang.srt.entrypoints import http_server
from starlette.routing import WebSocketRoute

from amoeba_sglang.adapters.frontend.routes import add_routes
from amoeba_sglang.frontend import endpoints


def test_a_root_path_changes_nothing():
    scope = {"path": "/base/open_session", "root_path": "/base"}
    assert endpoints.path_of(scope) == "/open_session"
    assert endpoints.path_of({"path": "/based", "root_path": "/base"}) == "/based"


def test_every_endpoint_has_been_looked_at():
    """One that upstream adds, and nobody has thought about, shows here."""
    app = FastAPI()
    add_routes(app, ask=None, feed=None)
    routes = [*http_server.app.routes, *app.routes]
    routes += http_server.v1_loads_router.routes + http_server.elastic_ep_router.routes
    paths = {route.path for route in routes if getattr(route, "path", None)}
    known = endpoints.CONTROL | endpoints.INFERENCE | endpoints.PAGE | endpoints.REFUSED.keys()
    below = tuple(endpoints._INFERENCE_BELOW)
    assert {path for path in paths - known if not path.startswith(below)} == set()
    # The last ones exist only with certain flags.
    assert known - paths == {"/dumper/{method}", "/metrics"}
    sockets = {route.path for route in routes if isinstance(route, WebSocketRoute)}
    assert sockets <= endpoints.INFERENCE
