"""What the router believes of workers that had no warm-up, in a layout that stays."""


def test_a_request_that_has_ended_is_no_load(pair):
    """The router opened the file of loads at the first request, when it had been unlinked."""
    pair.generate("Once upon a time", 20)
    assert pair.post("/flush_cache?timeout=10", {})[0] == 200
    assert [load["num_reqs"] for load in pair.get("/get_load")] == [0, 0]
