"""`make bench`: starts engines and workers of its own, measures, prints tables, stops everything.

python -m bench [--workloads W1,W5] [--systems celery,agentflow] [--runs 7] [--quick] [--json results.json]
python -m bench growth [--runs 3] [--open 10000]
python -m bench fairness [--runs 9] [--open 10000]
python -m bench profile [--workloads W1,W5]
python -m bench incidents [--failures 10000]
python -m bench inbox [--pending 100000] [--each 1000] [--sockets 2000] [--rate 50] [--seconds 60]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import comparing, fairness, growing, inbox, incidents, profiling, report
from .blocks import log_folder
from .graphs import STANDARD, WORKLOADS

ALWAYS = (comparing.BASE, *comparing.OURS)


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="agentflow-bench-") as name:
        folder = Path(name)
        results = PARTS[options.part](options, folder, log_folder() / f"{folder.name}.log")
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
    if results["problems"]:
        sys.exit("a check failed")


def _compare(options: argparse.Namespace, folder: Path, block_log: Path) -> dict[str, Any]:
    results = comparing.compare(
        folder,
        block_log,
        systems=_chosen(options.systems, comparing.TITLES, "system"),
        workloads=_chosen(options.workloads or ",".join(STANDARD), WORKLOADS, "workload"),
        runs=options.runs or (1 if options.quick else 7),
    )
    print(report.comparison(results))
    return results


def _growth(options: argparse.Namespace, folder: Path, block_log: Path) -> dict[str, Any]:
    growth = growing.Growth(options.runs or (1 if options.quick else 3), options.open)
    results = growth.measure(folder, block_log)
    print(growing.table(results))
    return results


def _profile(options: argparse.Namespace, folder: Path, block_log: Path) -> dict[str, Any]:
    chosen = _chosen(options.workloads or ",".join(profiling.WORKLOADS_SHOWN), WORKLOADS, "workload")
    results = profiling.profile(folder, block_log, chosen)
    print(profiling.tables(results))
    return results


def _fairness(options: argparse.Namespace, folder: Path, block_log: Path) -> dict[str, Any]:
    measured = fairness.Fairness(options.runs or (1 if options.quick else 9), options.open)
    results = measured.measure(folder, block_log)
    print(fairness.table(results))
    return results


def _inbox(options: argparse.Namespace, folder: Path, block_log: Path) -> dict[str, Any]:
    load = inbox.Load(options.pending, options.each, options.sockets, options.rate, options.seconds)
    results = load.measure(folder, block_log)
    print(inbox.table(results))
    return results


def _incidents(options: argparse.Namespace, folder: Path, block_log: Path) -> dict[str, Any]:
    results = incidents.Incidents(options.failures).measure(folder, block_log)
    print(incidents.table(results))
    return results


PARTS = {
    "compare": _compare,
    "growth": _growth,
    "profile": _profile,
    "fairness": _fairness,
    "inbox": _inbox,
    "incidents": _incidents,
}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure beside raw Celery.")
    parser.add_argument("part", nargs="?", choices=PARTS, default="compare")
    parser.add_argument("--runs", type=int, default=0, help="counted runs of each workload (7; of growth 3)")
    parser.add_argument("--open", type=int, default=10_000, help="growth, fairness: how many others are open")
    parser.add_argument("--pending", type=_upto(200_000), default=100_000, help="inbox: open questions")
    parser.add_argument("--each", type=_upto(10_000), default=1000, help="inbox: of them, each person's")
    parser.add_argument("--sockets", type=_upto(5000), default=2000, help="inbox: who watch at once")
    parser.add_argument("--rate", type=_upto(500), default=50, help="inbox: decisions a second")
    parser.add_argument("--seconds", type=_upto(300), default=60, help="inbox: for how long")
    parser.add_argument("--failures", type=_upto(1_000_000), default=10_000, help="incidents: of one kind")
    parser.add_argument("--quick", action="store_true", help="one counted run: does it work at all?")
    parser.add_argument("--workloads", default="", help=_listing())
    systems = (*ALWAYS, *(comparing.PEERS if os.environ.get("PEERS", "0") not in ("", "0") else ()))
    parser.add_argument(
        "--systems",
        default=",".join(systems),
        help=f"which to compare, of {', '.join(comparing.TITLES)} (PEERS=1: all)",
    )
    parser.add_argument("--json", default="", help="also write the figures to this file")
    return parser.parse_args()


def _upto(most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not 0 <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"from 0 to {most:,}")
        return int(text)

    return number


def _listing() -> str:
    return "; ".join(f"{name} = {WORKLOADS[name].title}" for name in STANDARD)


def _chosen(text: str, known: object, what: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]  # type: ignore[operator]
    if unknown:
        sys.exit(f"unknown {what} {unknown[0]!r}")
    return names


if __name__ == "__main__":
    if os.name != "posix":
        sys.exit("a POSIX system is needed")
    main()
