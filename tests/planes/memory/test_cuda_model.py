"""Random operations with random failures, against a list of which page holds what, and where."""

from cuda.bindings import driver as real
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from amoeba_sglang.planes.memory.base import MemoryFault
from amoeba_sglang.planes.memory.cuda import CudaMemory
from amoeba_sglang.planes.reference.driver import ReferenceDriver, view_bytes
from tests.planes.memory.pages import page_view, permissions

PAGE = 4096
PLACES = 5
CALLS = ["cuMemCreate", "cuMemMap", "cuMemSetAccess", "cuMemUnmap"]


class CudaModel(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.stand_in = ReferenceDriver(granularity=PAGE)
        self.memory = CudaMemory(PAGE, 0, self.stand_in, view_bytes)
        self.where = self.memory.reserve(PLACES * PAGE)
        self.places = [None] * PLACES
        self.content = []
        """By page."""
        self.written = 0

    def attempt(self, failure, operation, *arguments):
        """Whether the operation did its work, and did not have to fail."""
        if failure is not None:
            name, number = failure
            self.stand_in.fail(name, number, real.CUresult.CUDA_ERROR_OUT_OF_MEMORY)
        try:
            operation(*arguments)
        except MemoryFault:
            return False
        finally:
            self.stand_in.forget_failures()
        return True

    failures = st.none() | st.tuples(st.sampled_from(CALLS), st.integers(1, 4))

    @rule(failure=failures, count=st.integers(0, 4))
    def create(self, failure, count):
        if self.attempt(failure, self.memory.create, count):
            self.content += [0] * count

    @rule(failure=failures, data=st.data())
    def map(self, failure, data):
        first = data.draw(st.integers(0, PLACES))
        room = range(first, PLACES)
        # A page is at one place at a time; those that the call replaces count as free.
        elsewhere = [page for place, page in enumerate(self.places) if place not in room]
        free = [page for page in range(len(self.content)) if page not in elsewhere]
        chosen = data.draw(st.permutations(free))[: data.draw(st.integers(0, len(room)))]
        kept = self.places[first + len(chosen) :]
        chosen = [page for page in chosen if page not in kept]
        if self.attempt(failure, self.memory.map, self.where, first * PAGE, chosen):
            for place, page in enumerate(chosen, first):
                self.places[place] = page

    @rule(failure=failures, first=st.integers(0, PLACES), count=st.integers(0, PLACES))
    def unmap(self, failure, first, count):
        count = min(count, PLACES - first)
        if self.attempt(failure, self.memory.unmap, self.where, first * PAGE, count):
            self.places[first : first + count] = [None] * count

    @rule(place=st.integers(0, PLACES - 1))
    def write(self, place):
        if self.places[place] is not None:
            self.written = self.written % 255 + 1
            page_view(self.where, place, PAGE).fill_(self.written)
            self.content[self.places[place]] = self.written

    @rule()
    def compare_with_a_peer(self):
        if not self.content:
            return
        peer = self.memory.open_peer(self.memory.export())
        assert permissions(peer, PAGE) == ["r-"] * len(self.content)
        seen = [int(page_view(peer, page, PAGE)[-1]) for page in range(len(self.content))]
        peer.close()
        assert seen == self.content

    @invariant()
    def places_hold_their_pages(self):
        found = permissions(self.where, PAGE)
        assert found == ["--" if page is None else "rw" for page in self.places]
        for place, page in enumerate(self.places):
            if page is not None:
                assert page_view(self.where, place, PAGE)[0] == self.content[page]

    @invariant()
    def the_driver_has_no_more_than_the_model(self):
        held = len(self.content)
        assert self.memory.physical_bytes() == held * PAGE
        assert len(self.stand_in.allocations) == held
        mapped = sum(page is not None for page in self.places)
        assert len(self.stand_in.mappings) == mapped

    def teardown(self):
        self.where.close()
        self.memory.close()
        self.stand_in.assert_nothing_leaked()


CudaModel.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestCudaModel = CudaModel.TestCase
