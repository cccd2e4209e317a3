"""`make chaos`: the whole product under faults, its clients, and a verdict.  Exit code 1: it did not hold.

python -m tests.chaos c0         200 executions, one fault of each kind, at most six minutes
python -m tests.chaos c1         5,000 executions, 240 faults, an hour
python -m tests.chaos cc         2,000 executions and no fault: nothing may be rescued, nothing late
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.service import ROOT

from .plans import PLANS, Plan

NAMED = "named"


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos")
    parser.add_argument("plan", nargs="?", default="c0", choices=[*PLANS, NAMED])
    parser.add_argument("--seed", type=int, default=None, help="the same seed, the same load and faults")
    parser.add_argument("--share", type=float, default=1.0, help="of the plan's length, for a shorter try")
    parser.add_argument("--folder", type=Path, default=ROOT / "test-artifacts" / "chaos")
    given = parser.parse_args()
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("the rig's processes end with the thread that starts them")
    if given.plan == NAMED:
        return subprocess.call([sys.executable, "-m", "pytest", "-m", "chaos", "tests/chaos"], cwd=ROOT)
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    folder: Path = given.folder / time.strftime(f"{given.plan}-%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    return drive(given.plan, PLANS[given.plan].shortened(given.share), seed, folder)


def drive(name: str, plan: Plan, seed: int, folder: Path) -> int:
    from .rig import rig

    say(f"{name}, seed {seed}: {plan.executions} executions, {plan.faults} faults; logs in {folder}")
    chaos = plan.faults > 0
    with rig(folder, seed=seed, doubled=0.1 * chaos, dropped=0.05 * chaos) as running:
        os.environ.update(running.start_engines())
        subprocess.run([sys.executable, "manage.py", "migrate", "--no-input", "-v0"], cwd=ROOT, check=True)
        import django

        django.setup()
        from . import session

        return session.run(running, plan, name=name, seed=seed, folder=folder)


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
