"""Draws a history from a profile and a seed."""

from collections.abc import Callable, Iterator
from random import Random

from amoeba_sglang.config import longest_chain
from tests.world import events
from tests.world.events import Event, History
from tests.world.profiles import Profile
from tests.world.setting import Setting


def draw(profile: Profile, name: str, seed: int) -> History:
    """The history of one seed: the same for ever, unless this file or the profile changes. Every
    kind of event is drawn from a Random of its own, so that one more kind leaves the others."""
    key = f"{name}/{seed}"
    found: list[Event] = list(_asks(profile, Random(f"{key}/asks")))
    if profile.change:
        found += _changes(profile, Random(f"{key}/changes"))
    workers = profile.setting.workers * profile.setting.groups
    kinds: dict[str, Callable[[float, Random], Event]] = {
        "fault": lambda at, rng: events.Fault(
            at, rng.randrange(workers), rng.choice(("layers", "layers", "layers", "grow"))
        ),
        "refuse": lambda at, rng: events.NoPages(at, rng.randrange(workers)),
        "slow": lambda at, rng: events.Slow(
            at, rng.randrange(workers), round(profile.slow_s * rng.choice((0.1, 0.3, 1.0)), 3)
        ),
        "late": lambda at, rng: events.Late(
            at,
            rng.randrange(workers),
            round(profile.late_s * rng.random(), 3),
            to_worker=rng.random() < 0.3,
        ),
        "pause": lambda at, rng: events.Pause(
            at, round(rng.random(), 3), rng.choice(("in_place", "retract"))
        ),
        "flush": lambda at, rng: events.Flush(at, round(rng.random(), 3)),
        "abort_all": lambda at, rng: events.AbortAll(at),
        "strike": lambda at, rng: events.Strike(
            at, rng.randrange(workers), rng.choice(events.MOMENTS), rng.choice(events.VICTIMS)
        ),
        "weights": lambda at, rng: events.Weights(
            at, rng.choice(("update", "update", "read")), round(profile.weights_s * rng.random(), 3)
        ),
        "lose": lambda at, rng: events.Lose(
            at, rng.randrange(workers), rng.choice(("dies", "stops", "hangs"))
        ),
    }
    for kind, make in kinds.items():
        rate, rng = getattr(profile, kind), Random(f"{key}/{kind}")
        times = _times(rate, profile.seconds, rng) if rate else ()
        made = [make(at, rng) for at in times]
        # The first loss ends the server.
        found += made[:1] if kind == "lose" else made
    return History(key, tuple(sorted(found, key=lambda event: event.at)))


def _times(rate: float, seconds: float, rng: Random) -> Iterator[float]:
    at = rng.expovariate(rate)
    while at < seconds:
        yield round(at, 4)
        at += rng.expovariate(rate)


def _asks(profile: Profile, rng: Random) -> Iterator[Event]:
    at, number = 0.0, 0
    while True:
        pace = rng.choice((1 / profile.burst, 1.0, profile.burst))
        at += rng.expovariate(profile.arrivals * pace)
        if at >= profile.seconds:
            return
        yield _ask(profile, round(at, 4), f"r{number}", rng)
        number += 1


def _ask(profile: Profile, at: float, rid: str, rng: Random) -> Event:
    setting, own = profile.setting, profile.setting.tokens
    if rng.random() < profile.long:
        # Mostly such as a smaller instance can hold as well.
        degrees = longest_chain(setting.workers)[1:]
        most = instance_tokens(setting, degrees[0] if rng.random() < 0.7 else rng.choice(degrees))
        total = rng.randint(own - 1, most)
        if rng.random() < profile.near:
            total = most - rng.randrange(4)
        prompt = rng.randint(4, total - 4)
    elif rng.random() < profile.near:
        total = own - 2 * setting.page - rng.randrange(own // 4)
        prompt = rng.randint(4, total - 4)
    else:
        prompt = rng.randint(2, own // 3)
        total = prompt + rng.randint(1, own // 3)
    if rng.random() < 0.7:
        # Prompts cost fewer steps than outputs.
        prompt = max(prompt, total - rng.randint(1, 50))
    return events.Ask(
        at,
        rid,
        prompt,
        None if rng.random() < profile.open else total - prompt,
        text=rng.randrange(profile.texts),
        shared=prompt - 1 if rng.random() < profile.same else rng.choice((0, prompt // 2)),
        leaves=round(rng.expovariate(1.0), 4) if rng.random() < profile.leave else None,
        compiles=round(rng.expovariate(1.0), 3) if rng.random() < profile.grammar else None,
        logprobs=rng.random() < profile.logprobs,
        priority=rng.randrange(20) if setting.priorities else None,
        rank=rng.randrange(setting.workers * setting.groups)
        if rng.random() < profile.named
        else None,
        samples=rng.randint(2, 3) if rng.random() < profile.several else 1,
        # Drawn only where it can be so: the seeds of other profiles keep their histories.
        may_stop=profile.may_stop > 0 and rng.random() < profile.may_stop,
    )


def instance_tokens(setting: Setting, degree: int) -> int:
    """About the longest request that an instance holds."""
    grown = setting.grown_slots(degree) * setting.page
    return degree * setting.tokens + grown - 2 * setting.page


def _changes(profile: Profile, rng: Random) -> Iterator[Event]:
    for at in _times(1 / profile.change, profile.seconds + 2.0, rng):
        yield events.Change(at, rng.randrange(1000), fits=rng.random() < 0.7)
