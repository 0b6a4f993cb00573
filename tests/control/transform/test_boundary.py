"""b goes through all layers once, in the order of the design, from wherever it turns round."""

from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.transform.boundary import Boundary

LAYERS = st.integers(1, 80)


@given(LAYERS, st.booleans(), st.data())
def test_every_layer_moves_once_last_first_on_a_merge(layers, falls, data):
    boundary, moved = Boundary.at_start(layers, falls), []
    while not boundary.finished:
        step = boundary.next_layers(data.draw(st.integers(1, 90)))
        assert step
        moved += reversed(step) if falls else step
        boundary = boundary.after(step)
        assert boundary.b == (layers - len(moved) if falls else len(moved))
    assert moved == (list(reversed(range(layers))) if falls else list(range(layers)))


@given(LAYERS, st.booleans(), st.data())
def test_the_way_back_moves_exactly_the_layers_that_have_moved(layers, falls, data):
    boundary, moved = Boundary.at_start(layers, falls), set()
    for count in data.draw(st.lists(st.integers(1, 20), max_size=6)):
        if not boundary.finished:
            step = boundary.next_layers(count)
            moved.update(step)
            boundary = boundary.after(step)
    back, returned = boundary.reversed(), set()
    while not back.finished:
        step = back.next_layers(data.draw(st.integers(1, 90)))
        assert not returned & set(step)
        returned.update(step)
        back = back.after(step)
    assert returned == moved
    assert back.b == Boundary.at_start(layers, falls).b
