"""Workers of a host and their requests. A request stays at its home worker for ever."""

from collections import deque


class Request:
    """One request and what became of it. joined: when it came to its worker; left: prompt tokens to
    compute; degree: the smallest that holds it; first, end: when its first and last token came, -1
    before."""

    __slots__ = (
        "arrival", "computed", "degree", "end", "first", "home", "joined", "left", "long", "number",
        "output", "prompt", "tokens",
    )  # fmt: skip

    def __init__(self, number: int, arrival: float, prompt: int, output: int, long: bool) -> None:
        self.number, self.arrival, self.prompt, self.output = number, arrival, prompt, output
        self.long, self.tokens = long, prompt + output
        self.left, self.computed, self.degree, self.home = prompt, 0, 1, -1
        self.first = self.end = self.joined = -1.0


class Worker:
    """rank: in its host. rows: (decode count at which it ends, number, request), a heap; count:
    decode steps so far; context: tokens of all rows; used: KV tokens reserved; used_long: of these
    by requests that no worker at the base degree holds; prompts: of tokens waiting or in prefill;
    to_prefill: of these not yet computed; begun, ended: requests whose first or last token is
    computed and not yet handed out."""

    __slots__ = (
        "begun", "context", "count", "ended", "prefilling", "prompts", "queue", "rank", "rows",
        "to_prefill", "used", "used_long",
    )  # fmt: skip

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.queue: deque[Request] = deque()
        self.prefilling: deque[Request] = deque()
        self.rows: list[tuple[int, int, Request]] = []
        self.begun: list[Request] = []
        self.ended: list[Request] = []
        self.count = self.context = self.used = self.used_long = self.prompts = self.to_prefill = 0

    def add(self, request: Request, now: float) -> None:
        request.home, request.joined = self.rank, now
        self.queue.append(request)
        self.prompts += request.prompt
        self.to_prefill += request.left

    def running(self) -> list[Request]:
        """Those that hold KV."""
        return [request for _, _, request in self.rows] + list(self.prefilling) + self.ended

    def live(self) -> int:
        """Tokens that are in the KV pool."""
        return self.context + sum(request.computed for request in self.prefilling)

    def restart(self) -> None:
        """All that runs begins with its prompt again, longer by what it has written."""
        for request in self.prefilling:
            request.left += request.computed
            request.computed = 0
        for at, _, request in sorted(self.rows):
            request.left = request.prompt + request.output - (at - self.count)
            request.computed = 0
            self.prompts += request.prompt
            self.prefilling.append(request)
        self.rows, self.context = [], 0
        waiting = (*self.prefilling, *self.queue)
        self.to_prefill = sum(request.left for request in waiting)
