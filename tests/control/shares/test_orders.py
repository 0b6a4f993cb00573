"""An order changes no answer before its refuge is certain, and nothing when it is taken back."""

from hypothesis import given, settings
from hypothesis import strategies as st

from amoeba_sglang.control.shares.departure import Order
from amoeba_sglang.control.shares.refuge import kept_width
from tests.control.shares.group import Group
from tests.control.shares.worker import OWN

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def answers(group):
    """What every worker would tell any request, and who has which slot."""
    found = []
    for worker in group.workers:
        ledger, claims = worker.ledger, worker.claims()
        found.append(
            (
                ledger.room_for_long(worker.room(), claims.short_rest, claims.long_rest),
                ledger.room_for_short(worker.room(), claims.long_rest),
                ledger.room_to_move(worker.room()),
                ledger.beyond,
                sorted(ledger.extra.free.tolist()),
                worker.room(),
                [request.slots[:] for request in worker.live],
            )
        )
    return found


def prepare(group, index, after):
    worker = group.workers[index]
    width = kept_width(group.degrees[index], after, index)
    worker.ledger.prepare(Order(range(index, index + width), 2, 4), worker.claims(), worker)


@given(
    st.sampled_from([(2, 1), (2, 4), (4, 2), (4, 1)]),
    st.lists(st.tuples(st.integers(0, 3), sizes), max_size=6),
    st.integers(0, 12),
)
@settings(deadline=None, max_examples=200)
def test_taking_an_order_back_restores_every_answer(change, asked, steps):
    before, after = change
    group = Group()
    group.merge(0, before)
    for index, size in asked:
        group.submit(index, *size)
    for _ in range(steps):
        group.step()
    known = answers(group)
    prepare(group, 0, after)
    anchor = group.workers[0]
    if anchor.ledger.verdict is None:
        assert answers(group) == known, "it is undecided"
        # As far as it can be decided without any peer.
        anchor.ledger.offer(anchor.claims(), anchor)
        if anchor.ledger.verdict != "":
            assert answers(group) == known
    anchor.ledger.stand_down(anchor)
    assert answers(group) == known


def test_a_refuge_is_used_when_the_order_is_carried_out_and_not_before():
    group = Group()
    group.merge(0, 4)
    request = group.submit(0, 10, 20)
    for _ in range(4):
        group.step()
    anchor = group.workers[0]
    assert all(slot > OWN for slot in request.slots)
    prepare(group, 0, 2)
    for _ in range(6):
        group.exchange(leaving=False)
    assert anchor.ledger.verdict == ""
    assert all(slot > OWN for slot in request.slots)
    assert len(anchor.ledger.kept) == len(request.slots)
    group.exchange(leaving=True)
    group.check()
    assert not len(anchor.ledger.kept) and not len(anchor.ledger.moves)
    assert not any(OWN < slot < 1 << 23 for slot in request.slots)


def test_no_slot_leaves_a_prompt_that_has_begun():
    """All grown slots were withheld at once, and the server ended for want of the next chunk."""
    for steps in range(1, 4):
        group = Group()
        group.merge(0, 2)
        request = group.submit(0, 15, 1)
        for _ in range(steps):
            group.step()
        held = request.held
        assert 0 < held < 15
        prepare(group, 0, 1)
        for _ in range(8):
            group.step()
            if group.workers[0].ledger.verdict:
                group.workers[0].ledger.stand_down(group.workers[0])
        assert request.state == "done" and not request.retracted
