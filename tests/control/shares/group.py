"""A group of workers that serve requests by their ledgers alone, and one order at a time."""

from amoeba_sglang.control.shares.claims import Claims
from amoeba_sglang.control.shares.departure import Order
from amoeba_sglang.control.shares.loans import SPARE_SLOTS
from amoeba_sglang.control.shares.refuge import kept_width
from amoeba_sglang.control.shares.seat import Seat
from tests.control.shares.contents import Contents
from tests.control.shares.worker import CHAIN, GROWN, OWN, Request, Worker

LAYERS = 2


class Group:
    """Four workers, their instances, and one order at a time."""

    def __init__(self, page=1):
        self.page = page
        self.contents = Contents(page)
        self.workers = [Worker(self.contents, index) for index in range(4)]
        self.degrees = [1, 1, 1, 1]
        self.order = None
        self.phase, self.left = "", 0
        self.requests: list[Request] = []
        self.outcomes: list[str] = []

    # Steps

    def submit(self, index, prompt, output):
        """A request for a worker, if it promises to hold it."""
        worker = self.workers[index]
        most = (OWN + worker.ledger.beyond - SPARE_SLOTS) * self.page
        if self.order is not None:
            _, _, before, after = self.order
            most = min(most, self.most(index, before), self.most(index, after))
        if prompt + output > most:
            return None
        request = Request(f"r{len(self.requests)}", prompt, output)
        self.requests.append(request)
        worker.arrive(request)
        return request

    def most(self, index, degrees):
        return (OWN + self.beyond(index, degrees[index]) - SPARE_SLOTS) * self.page

    def beyond(self, index, degree):
        return (degree - 1) * OWN + GROWN[degree] if index % degree == 0 else 0

    def check(self):
        self.contents.check(self.workers)

    def step(self):
        """All workers plan and compute one step, exchange records, and the order gets on."""
        for worker in self.workers:
            worker.plan()
        self.check()
        self.exchange(leaving=self.phase == "commit")
        self.proceed()
        for worker in self.workers:
            worker.finish()
        self.check()

    def exchange(self, leaving):
        first = 0
        while first < 4:
            seat = self.workers[first].ledger.seat
            width = 1 if seat is None else seat.degree
            members = self.workers[first : first + width]
            first += width
            if seat is None:
                continue
            news = []
            for worker in members:
                any_long = any(r.long for r in (*worker.live, *worker.waiting))
                if worker.ledger.idles(any_long):
                    worker.ledger.offer(Claims(self.page), worker, leaving)
                news.append(worker.ledger.offer(worker.claims(), worker, leaving))
            for worker in members:
                worker.ledger.settle(news, worker)
            self.copy(members[0], news[0])

    def copy(self, anchor, news):
        for source, target in zip(news.moved_from.tolist(), news.moved_to.tolist(), strict=True):
            self.contents.copy(anchor, source, target)
        anchor.put(anchor.ledger.moves.finish())

    # Orders

    def prepare(self, first, width, degree):
        """PREPARE to a block; whether it is one."""
        before = list(self.degrees)
        after = [
            degree if first <= index < first + width else old for index, old in enumerate(before)
        ]
        block = before[first : first + width]
        if self.order is not None or before == after or max(*block, degree) != width:
            return False
        self.order, self.phase = (first, width, before, after), "prepare"
        for index in range(first, first + width):
            worker, kept = self.workers[index], kept_width(before[index], degree, index)
            if before[index] != degree and index % before[index] == 0:
                order = Order(range(index, index + kept), LAYERS, 2 * LAYERS)
                worker.ledger.prepare(order, worker.claims(), worker)
        return True

    def misfit(self):
        first, width, _, after = self.order
        return any(
            r.promised > self.most(index, after)
            for index in range(first, first + width)
            for r in (*self.workers[index].live, *self.workers[index].waiting)
        )

    def abort(self):
        first, width, *_ = self.order
        for worker in self.workers[first : first + width]:
            worker.ledger.stand_down(worker)
        self.order, self.phase = None, ""

    def proceed(self):
        if self.order is None:
            return
        first, width, _, after = self.order
        members = self.workers[first : first + width]
        if self.phase == "prepare":
            verdicts = [worker.ledger.verdict for worker in members]
            if self.misfit() or any(verdicts):
                self.outcomes.append("refused")
                self.abort()
            elif None not in verdicts:
                self.phase = "commit"
        elif self.phase == "commit":
            for worker in members:
                beyond = min(self.beyond(worker.index, d[worker.index]) for d in self.order[2:])
                if self.degrees[worker.index] != after[worker.index]:
                    worker.ledger.leave(after[worker.index], worker)
                    worker.ledger.beyond = beyond
            self.phase, self.left = "change", 2 * LAYERS
        else:
            self.left -= 1
            if not self.left:
                for worker in members:
                    index = worker.index
                    degree = after[index]
                    seat = Seat(CHAIN, degree, index)
                    worker.ledger.share(seat, GROWN[degree])
                    worker.ledger.beyond = self.beyond(index, degree)
                self.degrees, self.order, self.phase = after, None, ""
                self.outcomes.append("done")

    def merge(self, first, degree):
        """Change an idle block at once, for tests of one layout."""
        assert self.prepare(first, max(degree, *self.degrees[first : first + degree]), degree)
        while self.order is not None:
            self.step()

    def settle(self, steps=2000):
        """Step until every request has ended; how many steps that took."""
        for count in range(steps):
            if all(r.state == "done" for r in self.requests) and self.order is None:
                return count
            self.step()
        left = [r for r in self.requests if r.state != "done"]
        raise AssertionError(f"{left} never end")
