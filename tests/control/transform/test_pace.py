"""How many layers move at a time."""

from amoeba_sglang.control.transform.pace import GROWTH_SHARE, LEAST_SECONDS, Pace, Timing


def test_the_flag_decides_when_it_is_a_number():
    assert Pace(4, 30).next_layers([Timing(9.0, 0.001)]) == 4
    assert Pace(0, 30).next_layers([Timing(0.0, 0.0)]) == 30


def test_the_first_layer_moves_alone_to_be_measured():
    pace = Pace(None, 30)
    assert pace.next_layers([Timing(0.0, 0.0), Timing(0.0, 0.5)]) == 1
    assert "to measure" in pace.reason


def test_as_many_layers_as_stretch_the_slowest_workers_step_by_the_share():
    pace = Pace(None, 30)
    timings = [Timing(0.001, 0.08), Timing(0.002, 0.1)]
    assert pace.next_layers(timings) == int(GROWTH_SHARE * 0.1 / 0.002) == 5
    assert pace.reason == "a layer takes 2.00 ms, a step 100.0 ms, 10% of it 10.0 ms"


def test_at_least_one_layer_and_at_most_all():
    assert Pace(None, 30).next_layers([Timing(1.0, 0.01)]) == 1
    assert Pace(None, 30).next_layers([Timing(0.0001, 10.0)]) == 30


def test_idle_steps_do_not_make_a_move_endless():
    assert Pace(None, 30).next_layers([Timing(LEAST_SECONDS / 8, 0.0)]) == 8


def test_decode_steps_do_not_wait_for_what_was_chosen_for_a_prefill_chunk():
    pace = Pace(None, 30)
    pace.next_layers([Timing(0.002, 0.1)])
    assert pace.next_layers([Timing(0.002, 3.0)]) == int(GROWTH_SHARE * 0.1 / 0.002)
