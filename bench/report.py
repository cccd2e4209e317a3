"""Figures as a Markdown table."""

from __future__ import annotations

import statistics
from typing import Any

from .comparing import BASE, OURS

METHOD = """\
Medians of {runs} runs after one that warms up, in turn. In brackets: the ratio of the medians to raw
Celery; the smallest and largest ratio of a pair of runs."""
MEASURE = {"single": "wall_ms", "many": "wall_ms", "idle": "gap_ms"}


def comparison(results: dict[str, Any]) -> str:
    """The tables of `make bench`: medians, and ratios to raw Celery with their smallest and largest."""
    systems = list(results["systems"])
    titles = {name: found["title"] for name, found in results["systems"].items()}
    others = [name for name in systems if name != BASE]
    lines = [
        where(results["machine"]),
        "",
        METHOD.format(runs=results["runs"]),
        "",
        row("workload", "blocks", *(titles[name] for name in systems), "at most"),
        row(*["---"] * (len(systems) + 3)),
    ]
    for name, found in results["workloads"].items():
        cells = [_cell(found, side) for side in systems]
        target = "" if found["target"] is None else f"{found['target']:.2f}{_verdict(found)}"
        lines.append(row(f"{name} {found['title']}", str(found["blocks"]), *cells, target))
    lines += ["", *_extras(results, others, titles), _memory(results)]
    if results["problems"]:
        lines += ["", "FAILED CHECKS", *(f"  {problem}" for problem in results["problems"])]
    return "\n".join(lines) + "\n"


def where(machine: dict[str, Any]) -> str:
    after = machine.get("load_after")
    load = f"load {machine['load'][0]:.1f} before" + (f" and {after[0]:.1f} after" if after else "")
    return (
        f"{machine['date']}, commit {machine['commit']}; {machine['processors']} processors"
        f" ({machine['model'] or machine['architecture']}, {machine['system']}), Python {machine['python']},"
        f" PostgreSQL with fsync; {load}"
    )


def values(found: dict[str, Any], side: str) -> list[float]:
    return [run[MEASURE[found["kind"]]] for run in found["runs"].get(side, ())]


def ratio(found: dict[str, Any], side: str) -> float | None:
    """Of the medians, to raw Celery."""
    ours, base = values(found, side), values(found, BASE)
    return statistics.median(ours) / statistics.median(base) if ours and base else None


def _cell(found: dict[str, Any], side: str) -> str:
    ours, base = values(found, side), values(found, BASE)
    if not ours:
        return "-"
    text = f"{ms(statistics.median(ours))} ms"
    if side == BASE or not base:
        return text
    pairs = [mine / other for mine, other in zip(ours, base, strict=True)]
    return f"{text} ({ratio(found, side):.2f}; {min(pairs):.2f}-{max(pairs):.2f})"


def _verdict(found: dict[str, Any]) -> str:
    reached = ratio(found, OURS[0])
    if reached is None:
        return ""
    return " met" if reached <= found["target"] else " missed"


def _extras(results: dict[str, Any], others: list[str], titles: dict[str, str]) -> list[str]:
    """What the table of walls does not say of W6 and W7."""
    says = {"many": _many, "idle": _idle}
    return [
        f"* {name}, {titles[side]}: {says[found['kind']](found['runs'][side])}"
        for name, found in results["workloads"].items()
        for side in (BASE, *others)
        if found["kind"] in says and found["runs"].get(side)
    ]


def _many(runs: list[dict[str, float]]) -> str:
    p50, p99 = (ms(_median(runs, f"latency_{p}_ms")) for p in ("p50", "p99"))
    started = ms(_median(runs, "submit_ms"))
    return f"starting took {started} ms; start to last block p50 {p50} ms, p99 {p99} ms"


def _idle(runs: list[dict[str, float]]) -> str:
    first, gap = (ms(_median(runs, name)) for name in ("first_ms", "gap_p99_ms"))
    slowest = ms(max(run["first_max_ms"] for run in runs))
    return f"start to first block p50 {first} ms, slowest {slowest} ms; gap p99 {gap} ms"


def _memory(results: dict[str, Any]) -> str:
    cells = [
        f"{found['title']} {found['memory_mb']['rss']:.0f}/{found['memory_mb']['pss']:.0f} MB"
        for found in results["systems"].values()
        if "memory_mb" in found
    ]
    return f"* Memory of the processes that work (peak RSS added up / PSS at the end): {', '.join(cells)}"


def _median(runs: list[dict[str, float]], name: str) -> float:
    return statistics.median(run[name] for run in runs)


def ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
