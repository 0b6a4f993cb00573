"""One screen of text of what is known of a server."""

from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from amoeba_sglang.top.history import SAMPLES, History

# As on the page: told apart by those who do not see all colours, and each cell has its digit.
_STYLES = {1: "black on #9ec9e8", 2: "black on #e69f00", 4: "white on #009e73"}
_ABOVE = "black on #cc79a7"
_BLOCKS = " ▁▂▃▄▅▆▇█"
_BAR = 24


def draw(history: History, *, width: int, lines: int) -> RenderableType:
    """`width`, `lines`: of the terminal."""
    parts: list[RenderableType] = [_head(history)]
    if history.trouble:
        parts.append(Text(history.trouble, style="bold red"))
    parts += [_timeline(history, width), _instances(history), _long(history.frame)]
    taken = 14 + history.server["workers"] + len(history.instances) + len(history.frame["long"])
    parts.append(_log(history, max(3, lines - taken)))
    return Group(*parts)


def _head(history: History) -> RenderableType:
    server, frame = history.server, history.frame
    plane = "EMULATED" if server["emulated"] else server["plane"]
    beat = frame.get("beat") or {}
    told = [
        f"{history.about['model']} · {plane} · {server['workers']} workers",
        f"{beat.get('tokens_per_second', 0):.1f} tokens/s",
        f"first token {_ms(beat.get('ttft'))}",
        f"a token {_ms(beat.get('tpot'))}",
        f"longest gap {_ms(beat.get('gap'))}",
    ]
    return Text(" · ".join(told), style="bold")


def _timeline(history: History, width: int) -> RenderableType:
    room = max(10, min(SAMPLES, width - 10))
    samples = list(history.degrees)[-room:]
    grid = Table.grid(padding=(0, 1))
    for rank in range(history.server["workers"]):
        strip = Text()
        for sample in samples:
            degree = sample[rank]
            style = _STYLES.get(abs(degree), _ABOVE)
            strip.append(str(degree % 10) if degree > 0 else "▞", style=style)
        grid.add_row(f"{rank:>3}", strip)
    most = max(history.rates, default=0.0)
    rates = list(history.rates)[-room:]
    steps = [_BLOCKS[round(8 * rate / most) if most else 0] for rate in rates]
    grid.add_row("t/s", Text("".join(steps), style="#0072b2"))
    return Panel(grid, title="degree of each rank, half a second a column", title_align="left")


def _instances(history: History) -> RenderableType:
    table = Table(box=None, pad_edge=False)
    for name in ("ranks", "degree", "run", "queued", "KV", "used", "of", "grown", "leased"):
        table.add_column(name, justify="left" if name in ("ranks", "KV") else "right")
    shown, server = history.frame["instances"], history.server
    for number, ranks in enumerate(history.instances):
        degree, used = len(ranks), shown["used"][number]
        most = server["instance_tokens"][str(degree)]
        bar = _bar(used / most if most else 0, _STYLES.get(degree, _ABOVE))
        grown = most - degree * server["own_tokens"]
        queues = [str(shown[name][number]) for name in ("running", "queued")]
        tokens = [f"{count:,}" for count in (used, most, grown, shown["leased"][number])]
        table.add_row(*[_ranks(ranks), str(degree), *queues, bar, *tokens])
    return table


def _long(frame: dict[str, Any]) -> RenderableType:
    lines = [
        Text(
            f"long request of {one['tokens']:,} tokens "
            + (
                f"waits {one['seconds']:.1f} s: {one['reason']}"
                if one["rank"] is None
                else f"at rank {one['rank']} for {one['seconds']:.1f} s"
            )
        )
        for one in frame["long"]
    ]
    rest = frame["long_count"] - len(lines)
    return Group(*lines, *([Text(f"and {rest} more")] if rest else []))


def _log(history: History, most: int) -> RenderableType:
    now, table = history.frame["now"], Table.grid(padding=(0, 1))
    for line in list(history.log)[: -most - 1 : -1]:
        style = "bold red" if line.failed else ""
        table.add_row(f"{now - line.at:>6.1f} s ago", Text(line.text, style), Text(line.reason))
    return Panel(table, title="decided and done", title_align="left")


def _bar(share: float, style: str) -> Text:
    filled = min(_BAR, round(_BAR * share))
    return Text(" " * filled, style=style) + Text("·" * (_BAR - filled))


def _ranks(ranks: Sequence[int]) -> str:
    return f"{ranks[0]}-{ranks[-1]}" if len(ranks) > 1 else str(ranks[0])


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:.0f} ms"
