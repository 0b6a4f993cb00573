from __future__ import annotations

from types import SimpleNamespace

import pytest

from amoeba_sglang.router import controller, placement
from tests.router.stand_in import Router


@pytest.fixture
def processless(monkeypatch):
    """Lists in the place of sockets."""

    def receive(queue, flags):
        if not queue:
            raise controller.zmq.Again
        return queue.pop(0)

    serving = SimpleNamespace(allow_auto_truncate=False)
    monkeypatch.setattr(placement, "get_serving", lambda: serving)
    monkeypatch.setattr(controller, "sock_send", lambda queue, message: queue.append(message))
    monkeypatch.setattr(controller, "sock_recv", receive)


@pytest.fixture
def router(processless):
    return Router()
