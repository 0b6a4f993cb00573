"""How many layers move at a time."""

from amoeba_sglang.control.transform.pace import GROWTH_SHARE, LEAST_SECONDS, Pace, Timing


def test_the_flag_decides_when_it_is_a_number():
    assert Pace(4).next_layers([Timing(9.0, 0.001)], 30) == 4
    assert Pace(0).next_layers([Timing(0.0, 0.0)], 30) == 30


def test_the_first_layer_moves_alone_to_be_measured():
    pace = Pace(None)
    assert pace.next_layers([Timing(0.0, 0.0), Timing(0.0, 0.5)], 30) == 1
    assert "to measure" in pace.reason


def test_as_many_layers_as_stretch_the_slowest_workers_step_by_the_share():
    pace = Pace(None)
    timings = [Timing(0.001, 0.08), Timing(0.002, 0.1)]
    assert pace.next_layers(timings, 30) == int(GROWTH_SHARE * 0.1 / 0.002) == 5
    assert pace.reason == "a layer takes 2.00 ms, a step 100.0 ms, 10% of it 10.0 ms"


def test_at_least_one_layer_and_at_most_all():
    assert Pace(None).next_layers([Timing(1.0, 0.01)], 30) == 1
    assert Pace(None).next_layers([Timing(0.0001, 10.0)], 30) == 30


def test_idle_steps_do_not_make_a_move_endless():
    assert Pace(None).next_layers([Timing(LEAST_SECONDS / 8, 0.0)], 30) == 8


def test_decode_steps_do_not_wait_for_what_was_chosen_for_a_prefill_chunk():
    pace = Pace(None)
    pace.next_layers([Timing(0.002, 0.1)], 30)
    assert pace.next_layers([Timing(0.002, 3.0)], 30) == int(GROWTH_SHARE * 0.1 / 0.002)


def moved(layer, *, cycle, plain=0.1):
    """What a worker tells after the first layer, beside a step as long as usual."""
    return Timing(layer, plain, cycle, plain)


def test_all_that_is_left_moves_at_once_where_that_costs_less():
    """29 layers by 5 are 6 moves, each of which would add 20 ms: more than 58 ms once."""
    pace = Pace(None)
    assert pace.next_layers([moved(0.002, cycle=0.12), Timing(0.001, 0.1)], 29) == 29
    assert (
        pace.reason == "all at once: 58.0 ms, 6 moves would add 20.0 ms each to steps of 100.0 ms"
    )


def test_layers_move_one_by_one_where_moves_add_little_to_a_step():
    assert Pace(None).next_layers([moved(0.002, cycle=0.105)], 29) == 5
    # In shorter steps than before the change.
    assert Pace(None).next_layers([moved(0.002, cycle=0.09)], 29) == 5


def test_nobody_is_stopped_for_longer_than_two_steps():
    assert Pace(None).next_layers([moved(0.008, cycle=0.9)], 29) == 1
    assert Pace(None).next_layers([moved(0.008, cycle=0.9)], 25) == 25


def test_workers_without_rows_have_no_steps_to_add_to():
    assert Pace(None).next_layers([Timing(0.002, 0.0, 0.2)] * 2, 29) == 1
