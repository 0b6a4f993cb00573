import pytest
from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.errors import show


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "5"),
        ("a\nb", r"'a\nb'"),
        ("\ud800é", r"'\ud800\xe9'"),
        ("x" * 58, f"'{'x' * 58}'"),
        ("x" * 59, f"'{'x' * 59}... (61 characters)"),
    ],
)
def test_any_value_is_one_short_line(value, text):
    assert show(value) == text


def test_what_python_refuses_to_write_is_named_by_its_type():
    assert show(10**5000) == "(a int too large to show)"
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert show(deep) == "(a list too large to show)"


@given(st.text() | st.lists(st.integers()) | st.floats() | st.binary())
def test_a_shown_value_is_printable_and_short(value):
    assert show(value).isprintable()
    assert len(show(value)) < 100
