"""Round robin (RR): every worker in turn, whatever its load."""

from __future__ import annotations

from amoeba_sglang.policy.base import Decision, RequestSize, View


def place_in_turn(request: RequestSize, view: View) -> Decision:
    """The worker after the one that got the previous request."""
    return Decision(view.placed % len(view.loads), "next in turn")
