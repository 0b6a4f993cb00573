"""Round robin (RR): every worker in turn, whatever its load."""

from amoeba_sglang.control.policy.base import Decision, RequestSize, View


def place_in_turn(request: RequestSize, view: View) -> Decision:
    """The worker after the one that got the previous request, or the next that can hold this."""
    turn = view.placed % len(view.loads)
    rank = min(view.able, key=lambda rank: (rank - turn) % len(view.loads))
    return Decision(rank, "next in turn")
