import pytest

from amoeba_sglang.control.router.weight_access import refusal
from tests.control.router.values import Case


@pytest.mark.parametrize("what", ["read", "updated"])
def test_weights_are_there_by_name_while_everybody_has_all_of_them(what):
    case = Case()
    assert refusal(what, case.desk.operations, no_weights="") is None
    case.transform([0, 1], 2)
    assert "operation op is running" in refusal(what, case.desk.operations, "")
    case.finish(0, 1)
    reason = refusal(what, case.desk.operations, "")
    assert reason.startswith(f"weights can only be {what} while")
    assert reason.endswith("the degrees are [2, 2, 1, 1]")


def test_a_server_without_weights_says_so():
    assert refusal("read", Case().desk.operations, "an emulated server has none") == (
        "weights cannot be read: an emulated server has none"
    )
