"""Who decides: `python -m bench.deciding`, told what to do line by line.

    [{"id": "<approval>", "person": 7, "at": 0.04}, ...]    each at its second; answered by `ready`
    {"began": 1789000000.5}                                 when the seconds begin; answered by
    {"<approval>": <when it was decided>, ...}

It is a process of its own, of which there are several: one alone would be the limit that is measured.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any
from uuid import UUID


def main() -> None:
    from agentflow.governance.models import User
    from approvals.services.responding import respond

    turns: list[dict[str, Any]] = json.loads(sys.stdin.readline())
    people = User.objects.in_bulk({turn["person"] for turn in turns})  # connects, too
    print("ready", flush=True)
    began: float = json.loads(sys.stdin.readline())["began"]
    decided: dict[str, float] = {}
    for turn in turns:
        time.sleep(max(0.0, began + turn["at"] - time.time()))
        respond(approval_id=UUID(turn["id"]), by=people[turn["person"]], approved=True)
        decided[turn["id"]] = time.time()
    print(json.dumps(decided), flush=True)


if __name__ == "__main__":
    import django

    django.setup()
    main()
