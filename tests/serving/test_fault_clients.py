"""What counts as left behind by a server."""

from tests.serving.fault_clients import words_of


def test_digits_inside_a_hexadecimal_number_are_no_process_number():
    """A test failed on another server's file, because 782 was the number of a process."""
    assert "782" not in words_of("sglang_loads_c9e4722d782b_e8da733f.shm")
    assert "24387" in words_of("sgl_shm_mq_24387_2445018d")
