from hypothesis import given
from hypothesis import strategies as st

from amoeba_sglang.control.shares.claims import Claim, Claims

CLAIM = st.builds(
    Claim,
    st.just("r"),
    held=st.integers(0, 40),
    fill=st.integers(1, 40),
    promised=st.integers(1, 60),
    long=st.booleans(),
)


@given(CLAIM, st.sampled_from([1, 4, 16]), st.integers(0, 30))
def test_what_a_request_may_still_take_is_what_its_promise_leaves(claim, page, tokens):
    def slots(count):
        return -(-count // page)

    assert claim.rest(page) == max(0, slots(claim.promised) - slots(claim.held))
    coming = claim.coming(tokens, page)
    assert 0 <= coming <= claim.rest(page)
    # Its prompt, and then a token a step, but never more than it was promised.
    assert claim.coming(tokens + 1, page) - coming in (0, 1)
    end = min(claim.promised, max(claim.held, claim.fill) + tokens)
    assert coming == max(0, slots(end) - slots(claim.held))


@given(st.lists(CLAIM, max_size=6), st.lists(CLAIM, max_size=4), st.sampled_from([1, 4]))
def test_rests_are_sums_by_kind_and_the_first_is_the_oldest(live, waiting, page):
    claims = Claims(page, live, waiting)
    assert claims.long_rest + claims.short_rest == sum(one.rest(page) for one in live)
    assert claims.long_rest == sum(one.rest(page) for one in claims.live_long)
    assert all(one.long for one in claims.live_long)
    for long in (True, False):
        first = claims.first(long)
        assert first is next((one for one in waiting if one.long is long), None)
