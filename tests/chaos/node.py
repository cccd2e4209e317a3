"""`python -m tests.chaos.node`: one machine of the rig, what `make run` starts but on the rig's engines.

It is the product's own supervisor, without the demo.  Killed, all that it started ends with it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from config import supervisor
from config.children import Child


class Node(supervisor.Supervisor):
    def _migrate(self) -> None:
        """Done by the rig, once."""

    def _look_after(self, child: Child) -> None:
        if child.process is None:
            child.environment = {**self._plain(child), **self._asked(child)}
        super()._look_after(child)

    def _plain(self, child: Child) -> dict[str, str]:
        return {
            name: text
            for name, text in child.environment.items()
            if "FAKETIME" not in name and name != "LD_PRELOAD"
        }

    def _asked(self, child: Child) -> dict[str, str]:
        """What the rig wants the next process of this name to know: a clock that is wrong."""
        path = Path(self.options.home) / f"{child.name}.env"
        return dict(json.loads(path.read_text())) if path.exists() else {}


def main() -> int:
    supervisor.has_command = lambda name: False  # no demo
    return Node(supervisor.Options.from_environment()).run()


if __name__ == "__main__":
    sys.exit(main())
