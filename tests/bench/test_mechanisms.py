import pytest

from amoeba_sglang.control.device import load_device
from bench.simulation.mechanisms import received_bytes, static_tokens, transformation_seconds

DEGREES = (1, 2, 4, 8)


def test_capacity_of_static_instances():
    device = load_device("h100-96-32b-roofline")
    found = [static_tokens(device, degree) / 1e3 for degree in DEGREES]
    assert found == pytest.approx((79, 409, 1068, 2386), rel=0.03)
    assert static_tokens(device, 1) == pytest.approx(device.elastic_tokens(DEGREES)[1], rel=0.01)


def test_a_transformation_exposes_a_third_of_its_copies():
    device = load_device("h100-96-32b-roofline")
    kv, weights = received_bytes(device, DEGREES, 1, 4, live_tokens=100_000)
    assert weights == 0
    # Three quarters of the units of every token change worker.
    assert kv == pytest.approx(0.75 * 100_000 * 262_144 / 4)
    seconds = transformation_seconds(device, kv, weights)
    assert seconds == pytest.approx(0.03 + (device.copy_seconds(kv, 0) + 0.15) / 3, rel=1e-3)
    back_kv, back = received_bytes(device, DEGREES, 4, 1, live_tokens=100_000)
    assert back_kv == kv
    assert back == pytest.approx(0.75 * device.model.mlp_bytes, rel=0.01)
