"""The kernel that lets the units of one cycle change places."""

import triton
import triton.language as tl

WARPS = 4
BLOCK = WARPS * 32 * 4
"""int32 words that a program moves of each member: 16 bytes per thread. Not tuned."""


@triton.jit
def _run_of(table, member, tensors):
    """Where the `member`-th run of this program's tensor lies for super-slot 0."""
    address = tl.load(table + member * tensors + tl.program_id(1))
    # Of the pointer: said of the integer it is lost, and all accesses are of 4 bytes.
    return tl.multiple_of(address.to(tl.pointer_type(tl.int32)), 16)


# Compiled once for each number of members, whatever the sizes.
@triton.jit(do_not_specialize=["slots", "tensors", "run_quads", "row_quads"])
def turn_cycle(
    table, slots, tensors, run_quads, row_quads, MEMBERS: tl.constexpr, BLOCK: tl.constexpr
):
    """Let the run of each member go to where the one before has been, the first's to the last's.

    Grid (blocks of all runs of a tensor, one after another; tensors). `table`: of `Launch`. A run
    has 16 * `run_quads` bytes, super-slots are 16 * `row_quads` bytes apart. Runs of dead units are
    neither read nor written: a smaller pool may have none there.
    """
    word = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    # A product, so that Triton knows it as a multiple of 4 whatever the number.
    run_words = run_quads * 4
    slot = word // run_words
    entry = table + MEMBERS * tensors + slot
    inside = slot < slots
    alive = tl.load(entry + slots, mask=inside, other=0)
    offset = tl.load(entry, mask=inside, other=0) * row_quads * 4 + word % run_words
    # Each word stays with one thread, which reads a place before it writes there.
    place = _run_of(table, 0, tensors) + offset
    aside_lives = alive & 1 != 0
    aside = tl.load(place, mask=aside_lives)
    for member in tl.static_range(1, MEMBERS):
        here = _run_of(table, member, tensors) + offset
        lives = (alive >> member) & 1 != 0
        tl.store(place, tl.load(here, mask=lives), mask=lives)
        place = here
    tl.store(place, aside, mask=aside_lives)
