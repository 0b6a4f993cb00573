"""A barrier in shared memory that compares what each rank came for."""

import ctypes
import mmap
import os
import platform
import select
from collections.abc import Sequence
from enum import IntEnum

from amoeba_sglang.planes.transport.base import PeerLostError, TransportError
from amoeba_sglang.planes.transport.patience import Patience, Wait

# Two cache lines a rank: the prefetcher of x86 fetches lines in pairs.
_LINE = 128
_WORDS_PER_LINE = _LINE // 8
# Words of a rank's line: the arrival words of odd and even meetings, then the two below.
_SLEEPER, _LEFT = 2, 3

_LOW = 0xFFFFFFFF
_DETAIL_BITS = 28

_YIELD_S = 0.0003
_SLEEP_NS = 50_000_000

_FUTEX, _FUTEX_WAIT, _FUTEX_WAKE = 202, 0, 1


class Operation(IntEnum):
    """What a rank comes to a meeting for."""

    BARRIER = 1
    ALL_REDUCE = 2
    ALL_GATHER = 3
    ALL_GATHER_ROWS = 4
    EXCHANGE = 5


def signature(operation: Operation, detail: int) -> int:
    """32 bits that must agree on all ranks of a meeting; `detail`: bytes, 0 if unknown."""
    return operation << _DETAIL_BITS | detail & ((1 << _DETAIL_BITS) - 1)


class Rendezvous:
    """Meetings of `size` ranks, numbered from 1 (modulo 2**32).

    A rank arrives by storing one 64-bit word, signature << 32 | number, into its own cache line.
    Odd and even meetings have separate words: nobody is more than one meeting ahead, so a word
    holds either the meeting two ago or the present one, and a single load of a peer's word tells
    both that it has arrived and that it came for the same operation.

    Ordering: aligned 8-byte stores and loads are single instructions here, and x86 keeps the
    order of stores and the order of loads. So what a rank wrote before it arrived is visible to
    the one that sees it arrived. (The C calls around every access keep the compiler from
    reordering, and memcpy fences its own non-temporal stores.)

    Waiting: yield the core, then sleep on a futex on the late peer's word. (Spinning before that
    made busy machines slower: the late peer may need the very core that spins.) A sleeper marks
    the peer's line first, and only a marked peer pays the wake-up call. The mark and the arrival
    can miss each other in the store buffers (x86 may delay a store past a later load); the sleep
    is bounded, so that costs one period and nothing else.
    """

    def __init__(
        self,
        memory: mmap.mmap,
        rank: int,
        pids: Sequence[int],
        world_ranks: Sequence[int],
        patience: Patience,
    ) -> None:
        if platform.machine() != "x86_64":
            raise TransportError(
                f"shared-memory groups need x86_64 store order, not {platform.machine()}: "
                "use --amoeba-transport collective"
            )
        size = len(pids)
        peers = [peer for peer in range(size) if peer != rank]
        self.phase = ""
        self._patience = patience
        self._pids = pids
        self._world_ranks = world_ranks
        self._number = 0
        self._rank = rank
        self._line = rank * _WORDS_PER_LINE
        self._peers = tuple(
            tuple(peer * _WORDS_PER_LINE + parity for peer in peers) for parity in (0, 1)
        )
        self._words = memoryview(memory)[: size * _LINE].cast("Q")
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._pidfds = {peer: os.pidfd_open(pids[peer]) for peer in peers}

    @staticmethod
    def nbytes(size: int) -> int:
        """Bytes at the start of the shared memory that `size` ranks use."""
        return size * _LINE

    def meet(self, signature: int) -> None:
        """Return when all ranks have arrived at this meeting with this signature.

        Raises TransportError if a peer arrived with another one, PeerLostError if one cannot
        arrive or is given up.
        """
        self._number = number = self._number + 1 & _LOW
        word = signature << 32 | number
        words = self._words
        own = self._line + (number & 1)
        words[own] = word
        if words[self._line + _SLEEPER]:
            words[self._line + _SLEEPER] = 0
            _futex(self._address + 8 * own, _FUTEX_WAKE, _LOW >> 1, None)
        for peer in self._peers[number & 1]:
            if words[peer] != word:
                self._wait(word)
                return

    def close(self) -> None:
        """Tell the peers that this rank comes to no further meeting; release descriptors."""
        if self._pidfds is not None:
            self._leave()
            for fd in self._pidfds.values():
                os.close(fd)
            self._pidfds = None
            self._words.release()

    def _leave(self) -> None:
        self._words[self._line + _LEFT] = 1

    def _wait(self, word: int) -> None:
        words, peers = self._words, self._peers[word & 1]
        number = word & _LOW
        wait = Wait(self._patience)
        for peer in peers:
            while words[peer] & _LOW != number:
                if wait.seconds < _YIELD_S:
                    os.sched_yield()
                else:
                    self._sleep(peer, number)
                    if words[peer] & _LOW != number:
                        self._check(word, wait)
        for peer in peers:
            if words[peer] != word:
                self._leave()
                raise TransportError(
                    f"ranks disagree at meeting {number}: worker rank {self._name(self._line)} "
                    f"is in {_describe(word)}, rank {self._name(peer)} in {_describe(words[peer])}"
                )

    def _sleep(self, peer: int, number: int) -> None:
        words = self._words
        words[peer // _WORDS_PER_LINE * _WORDS_PER_LINE + _SLEEPER] = 1
        seen = words[peer] & _LOW
        if seen != number:
            _futex(self._address + 8 * peer, _FUTEX_WAIT, seen, ctypes.byref(_PERIOD))

    def _check(self, word: int, wait: Wait) -> None:
        """Raise if a rank that is not here yet is dead, has left, or is given up."""
        words, number = self._words, word & _LOW
        poll = select.poll()
        for fd in self._pidfds.values():
            poll.register(fd, select.POLLIN)
        exited = {fd for fd, _ in poll.poll(0)}
        dead, left, late = [], [], {}
        for peer in self._peers[number & 1]:
            line = peer // _WORDS_PER_LINE
            gone = words[line * _WORDS_PER_LINE + _LEFT]
            # Read last: a peer may arrive and then exit or leave.
            if words[peer] & _LOW == number:
                continue
            if self._pidfds[line] in exited:
                dead.append(self._name(peer))
            elif gone:
                left.append(self._name(peer))
            else:
                late[self._name(peer)] = self._pids[line]
        for lost, reason in ((dead, "died"), (left, "left the group"), wait.given_up(late)):
            if lost:
                self._leave()
                phase = f" of {self.phase}" if self.phase else ""
                place = f"{_describe(word)}, meeting {number}{phase}"
                raise PeerLostError(lost, place, wait.seconds, reason)

    def _name(self, index: int) -> int:
        return self._world_ranks[index // _WORDS_PER_LINE]


def _describe(word: int) -> str:
    code, detail = divmod(word >> 32, 1 << _DETAIL_BITS)
    name = Operation(code).name.lower()
    return f"{name} of {detail} bytes" if detail else name


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


_PERIOD = _Timespec(0, _SLEEP_NS)
_syscall = ctypes.CDLL(None).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = [
    ctypes.c_long,
    ctypes.c_void_p,
    ctypes.c_long,
    ctypes.c_uint32,
    ctypes.c_void_p,
]


def _futex(address: int, operation: int, value: int, timeout: object) -> None:
    # The result is of no use: the caller looks at the word again, whatever woke it.
    _syscall(_FUTEX, address, operation, value, timeout)
