"""Keeps the schedulers of one instance in step, and asleep together when none has work."""

from __future__ import annotations

from collections.abc import Callable

from amoeba_sglang.model.step_record import StepRecord, require_agreement
from amoeba_sglang.transport import Bell, TransportGroup


class LockStep:
    """The joint steps of one instance between two transformations.

    A step starts with an exchange of records. When no record has work all members fall asleep in
    the same round; whoever gets work rings the others and enters the next exchange. All members
    that sleep are at the same step, so a bell for any other one is stale or forged and ignored.
    """

    def __init__(
        self, epoch: int, ranks: tuple[int, ...], rank: int, group: TransportGroup, bell: Bell
    ) -> None:
        self.epoch, self.ranks, self.group, self.bell = epoch, ranks, group, bell
        self.peers = [r for r in ranks if r != rank]
        self.step = 0
        self.asleep = False
        group.phase = f"the joint steps of epoch {epoch}"

    def exchange(
        self, has_work: bool, make_record: Callable[[int], StepRecord]
    ) -> list[StepRecord] | None:
        """One round: the records of all members in rank order, or None while asleep.

        `make_record(step)` is called only if the round takes place, since making a record tells
        the ledger that the peers know it.
        """
        if self.asleep:
            # Drained at every wake-up: the kernel's queue is short and drops the newest ring.
            rung = self.bell.rung((self.epoch, self.step))
            if has_work:
                self.bell.ring(self.peers, (self.epoch, self.step))
            elif not rung:
                return None
        words = self.group.exchange(make_record(self.step).encode())
        records = [StepRecord.decode(w) for w in words]
        require_agreement(records)
        self.step += 1
        self.asleep = not any(record.has_work for record in records)
        return records
