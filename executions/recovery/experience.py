"""What came of strategies lately, as the order of a ladder is learned from it: read at most every moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from agentflow.agents.registry import cached

from .ordering import SWAPPED, Experience, Tried

WEEKS = 4  # older results tell nothing any more
OTHER = "other"  # the code of failures beyond the most that are told apart

# By scope, cause, code and strategy; the code is "" for all of a cause together.
Known = Mapping[tuple[str, str, str], Mapping[str, Tried]]

_READ = """
SELECT CASE WHEN template_id IS NULL THEN 'workspace' ELSE 'template' END, cause, code, strategy,
  sum(tries)::bigint, sum(recovered)::bigint, sum(seconds)
FROM executions_strategytally
WHERE workspace_id = %(workspace)s AND (template_id = %(template)s OR template_id IS NULL)
  AND week > current_date - 7 * %(weeks)s AND strategy = ANY(%(strategies)s)
GROUP BY 1, 2, 3, 4 HAVING sum(tries) > 0
"""


def of(workspace_id: UUID, template_id: UUID) -> Known:
    found: Known = cached(("experience", workspace_id, template_id), lambda: _load(workspace_id, template_id))
    return found


def about(known: Known, cause: str, code: str, ladder: Sequence[str]) -> Experience | None:
    """The nearest that says enough of at least two rungs: such failures of the template, all of the cause
    there, such failures anywhere in the workspace, all of the cause."""
    for scope in ("template", "workspace"):
        for name in (code, "") if code != OTHER else ("",):
            tried = known.get((scope, cause, name), {})
            if sum(rung in ladder and of_it.enough for rung, of_it in tried.items()) >= 2:
                return Experience(scope, cause, name, tried)
    return None


def _load(workspace_id: UUID, template_id: UUID) -> Known:
    from executions.engine.run import raw_cursor  # above this in the order of imports

    given = {
        "workspace": workspace_id,
        "template": template_id,
        "weeks": WEEKS,
        "strategies": sorted(SWAPPED),
    }
    found: dict[tuple[str, str, str], dict[str, Tried]] = {}
    for scope, cause, code, strategy, *counts in raw_cursor().execute(_READ, given).fetchall():
        tried = Tried(*counts)
        found.setdefault((scope, cause, code), {})[strategy] = tried
        of_all = found.setdefault((scope, cause, ""), {})
        of_all[strategy] = of_all.get(strategy, Tried(0, 0, 0.0)) + tried
    return found
