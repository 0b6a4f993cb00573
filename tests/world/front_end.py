"""What the front end does with requests before the router has them, and when clients leave."""

from typing import Any

from tests.world.clients import Client
from tests.world.events import Ask


class FrontEnd:
    """Splits a prompt that wants several answers as SGLang does: once without output, so that the
    prefix is cached, then each of them. While weights are updated everybody waits here."""

    def __init__(self, play: Any) -> None:
        self._play = play
        self._families: dict[str, Ask] = {}
        self._held: list[Ask] = []
        self.locked = False

    def ask(self, ask: Ask) -> None:
        """A client asks for something."""
        play = self._play
        if self.locked:
            self._held.append(ask)
            play.counts["requests that wait for weights"] += 1
            return
        play.rare.see_request(ask)
        if not play.clients.admits(ask):
            play.counts["refused by the front end"] += 1
            return
        if ask.leaves is not None:
            play.loop.after(ask.leaves, lambda: self.leave(ask.rid))
        if ask.samples == 1:
            self._send(ask, ask.rid)
        else:
            self._families[ask.rid] = ask
            self._send(ask, f"{ask.rid}.warm", output=0)

    def unlock(self) -> None:
        """The weights are updated: let those that wait go on."""
        self.locked, held, self._held = False, self._held, []
        for ask in held:
            self.ask(ask)

    def ended(self, client: Client) -> None:
        """A request has ended: its answers are asked for if it was for its prefix only."""
        family = self._families.pop(client.ask.rid, None)
        if family is None or client.status != "whole" or client.excused:
            return
        self._play.counts["prompts with several answers"] += 1
        for number in range(family.samples):
            # The router may do nothing in the middle of what a worker does.
            rid = f"{family.rid}.{number}"
            self._play.loop.after(0.0, lambda rid=rid: self._send(family, rid))

    def leave(self, rid: str) -> None:
        """The client of this request, or of these answers, goes away."""
        self._families.pop(rid, None)
        for abort in self._play.clients.leave(rid):
            self._play.note("leave", abort.rid)
            self._play.counts["clients that left"] += 1
            self._play.route(self._play.router.handle_judged, abort)

    def _send(self, ask: Ask, rid: str, output: int | None = None) -> None:
        play = self._play
        play.route(play.router.arrive, play.clients.submit(ask, rid, output))
