"""How an agent did, as charts that need no script: geometry for `admin/agents/agent.html`.

A chart is bars or lines over equal times, drawn in a box of `WIDTH` by `HEIGHT` that the page stretches.
The same values are in a table below them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from .performance import Bucket, Window

WIDTH, HEIGHT = 600.0, 100.0
POINTS = 60  # at most, of a chart


@dataclass(frozen=True, slots=True)
class Bar:
    x: float
    y: float
    width: float
    height: float
    look: str  # the class it is drawn in
    said: str


@dataclass(frozen=True, slots=True)
class Line:
    path: str
    look: str


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    figure: str  # what it comes to, over the whole time
    top: str  # what its upper edge stands for
    bars: Sequence[Bar] = ()
    lines: Sequence[Line] = ()
    legend: Sequence[tuple[str, str]] = ()  # look, words


Row = tuple[datetime, str, str, str, str, str, str]
COLUMNS = ("From", "Calls", "Succeeded", "Half are faster than", "19 of 20 are", "Cost", "Tokens")


def charts(window: Window) -> list[Chart]:
    """Calls, success, latency and, where there are any, cost and tokens."""
    total = window.total
    found = [_calls(window, total), _success(window, total), _latency(window, total)]
    if total.cost:
        found.append(_amounts(window, "Cost", money(total.cost), lambda bucket: bucket.cost, money))
    if _tokens(total):
        found.append(_amounts(window, "Tokens", f"{_tokens(total):,}", _tokens, lambda y: f"{y:,.0f}"))
    return found


def rows(window: Window) -> list[Row]:
    """The values of the charts, the newest first."""
    return [
        (
            at,
            str(bucket.calls),
            percent(bucket),
            ms(bucket.percentile(0.5)),
            ms(bucket.percentile(0.95)),
            money(bucket.cost) if bucket.cost else "-",
            f"{_tokens(bucket):,}" if _tokens(bucket) else "-",
        )
        for at, bucket in reversed(window.own.items())
    ]


def ends(window: Window) -> tuple[datetime, datetime]:
    """Where the charts begin and end."""
    return window.since, window.last + timedelta(seconds=window.seconds)


def ms(value: float | None) -> str:
    """`85 ms`, `1.4 s`, `3 min`: as exact as the buckets are."""
    if value is None:
        return "-"
    if value < 1000:
        return f"{value:.0f} ms"
    return f"{value / 1000:.1f} s" if value < 100_000 else f"{value / 60_000:.0f} min"


def money(value: float) -> str:
    return f"{value:,.2f}" if value >= 1 else f"{value:.2g}"


def percent(bucket: Bucket) -> str:
    if not bucket.calls:
        return "-"
    share = 100 * bucket.successes / bucket.calls
    # Never rounded to what it is not: 99.96 % is not all.
    return f"{share:.0f} %" if share in (0, 100) else f"{min(max(share, 0.1), 99.9):.1f} %"


def _tokens(bucket: Bucket) -> int:
    return bucket.input_tokens + bucket.output_tokens


def _places(window: Window) -> list[datetime]:
    """The beginnings of all buckets, those without calls too."""
    step = timedelta(seconds=window.seconds)
    return [window.since + n * step for n in range((window.last - window.since) // step + 1)]


def _slots(window: Window) -> list[tuple[float, float, datetime, Bucket | None]]:
    places = _places(window)
    width = WIDTH / len(places)
    return [(n * width, width, at, window.own.get(at)) for n, at in enumerate(places)]


def _calls(window: Window, total: Bucket) -> Chart:
    most = max((bucket.calls for bucket in window.own.values()), default=0)
    bars = []
    for x, width, at, bucket in _slots(window):
        if bucket is None or not bucket.calls:
            continue
        said = f"{_clock(at)}: {bucket.calls} calls, {bucket.failures} failed"
        good, bad = (HEIGHT * count / most for count in (bucket.successes, bucket.failures))
        bars.append(_bar(x, width, 0.0, good, "ok", said))
        bars.append(_bar(x, width, good, bad, "bad", said))
    legend = (("ok", "succeeded"), ("bad", "failed"))
    return Chart("Calls", f"{total.calls:,}", f"{most:,}", [bar for bar in bars if bar.height], (), legend)


def _success(window: Window, total: Bucket) -> Chart:
    share: Callable[[Bucket], float | None] = lambda b: b.successes / b.calls if b.calls else None  # noqa: E731
    return Chart("Success rate", percent(total), "100 %", lines=[Line(_path(window, share, 1.0), "ok")])


def _latency(window: Window, total: Bucket) -> Chart:
    p50, p95 = total.percentile(0.5), total.percentile(0.95)
    most = max((bucket.percentile(0.95) or 0.0 for bucket in window.own.values()), default=0.0)
    lines = [
        Line(_path(window, lambda b, share=share: b.percentile(share), most), look)  # type: ignore[misc]
        for share, look in ((0.95, "high"), (0.5, "mid"))
    ]
    legend = (("mid", "half are faster"), ("high", "19 of 20 are faster"))
    return Chart("Time of a call", f"{ms(p50)}, {ms(p95)}" if p50 else "-", ms(most), (), lines, legend)


def _amounts(
    window: Window, title: str, figure: str, amount: Callable[[Bucket], float], words: Callable[[float], str]
) -> Chart:
    most = max(amount(bucket) for bucket in window.own.values())
    bars = [
        _bar(x, width, 0.0, HEIGHT * amount(bucket) / most, "mid", f"{_clock(at)}: {words(amount(bucket))}")
        for x, width, at, bucket in _slots(window)
        if bucket is not None and amount(bucket)
    ]
    return Chart(title, figure, words(most), bars)


def _bar(x: float, width: float, below: float, height: float, look: str, said: str) -> Bar:
    shown = max(height, 1.0) if height else 0.0
    gap = min(width * 0.15, 2.0)
    y = max(HEIGHT - below - shown, 0.0)
    return Bar(round(x + gap / 2, 2), round(y, 2), round(width - gap, 2), round(shown, 2), look, said)


def _path(window: Window, value: Callable[[Bucket], float | None], most: float) -> str:
    """A line through the middles of the buckets, broken where there were no calls."""
    parts: list[str] = []
    drawing = False
    for x, width, _, bucket in _slots(window):
        found = None if bucket is None else value(bucket)
        if found is None:
            drawing = False
            continue
        y = HEIGHT - HEIGHT * found / most if most else HEIGHT
        left, right = (f"{place:.1f} {y:.1f}" for place in (x, x + width))
        parts.append(f"{'L' if drawing else 'M'}{left}L{right}")
        drawing = True
    return "".join(parts)


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"
