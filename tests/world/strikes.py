"""Clients that leave exactly when a worker's protocol does something."""

from typing import Any

from amoeba_sglang.adapters.worker.requests import Requests
from tests.world import events


class Strikes:
    """Those that are armed; each comes once."""

    def __init__(self, play: Any) -> None:
        self._play = play
        self._armed: list[events.Strike] = []

    def arm(self, event: events.Strike) -> None:
        self._armed.append(event)

    def see_effect(self, worker: Any, effect: Any) -> None:
        """A worker's protocol is about to let this be done."""
        moment = type(effect).__name__
        for strike in self._armed:
            if strike.rank == worker.rank and strike.moment == moment:
                rid = self._victim(worker, strike.victim)
                if rid is not None:
                    self._armed.remove(strike)
                    self._play.note("strike", strike.moment, rid)
                    self._play.loop.after(0.0, lambda rid=rid: self._play.front_end.leave(rid))
                    return

    def _victim(self, worker: Any, kind: str) -> str | None:
        """The id that its client knows, of a request of this kind that has not ended."""
        requests, clients = Requests(worker), self._play.clients.by_rid
        if kind == "chunked":
            found = [worker.chunked_req] if worker.chunked_req is not None else []
        elif kind == "long":
            found = list(filter(worker.token_to_kv_pool_allocator.is_long, requests.live))
        else:
            found = requests.waiting if kind == "waiting" else requests.all
        left = (req for req in found if clients[req.rid].open and not clients[req.rid].excused)
        return next((clients[req.rid].ask.rid for req in left), None)
