"""Files of the package in which several mutants are."""

LEDGER, LOANS, DEPARTURE = (
    "control/shares/ledger.py",
    "control/shares/loans.py",
    "control/shares/departure.py",
)
PROTOCOL, REQUESTS, MIRROR = (
    "control/worker/protocol.py",
    "adapters/worker/requests.py",
    "control/worker/mirror.py",
)
BUDGET, OPERATION = "adapters/model/prefill_budget.py", "control/router/operation.py"
SCHEDULER = "adapters/worker/scheduler.py"
