"""Whether weights may be read or written by name: only where every worker has all of them."""

from amoeba_sglang.control.router.operation import Operations


def refusal(what: str, operations: Operations, no_weights: str) -> str | None:
    """Why `what` ("updated", "read") cannot be done to weights now, or None.

    no_weights: why they never can. What the router sends from here on reaches every worker before
    the next PREPARE does.
    """
    if no_weights:
        return f"weights cannot be {what}: {no_weights}"
    degrees, running = operations.layout.degrees, operations.running
    if max(degrees) == 1 and running is None:
        return None
    reason = (
        f"operation {running['operation_id']} is running"
        if running is not None
        else f"the degrees are {list(degrees)}"
    )
    return f"weights can only be {what} while every instance is at degree 1, but {reason}"
