"""Events as sentences: what the log of an execution says to people."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agentflow.types import JSONObject

REASONS: Mapping[str, str] = {
    "approval_timeout": "nobody answered in time",
    "approved": "a person agreed",
    "by_hand": "a person said so",
    "callback": "its agent will bring the result",
    "callback_timeout": "its agent did not bring the result in time",
    "cancelled": "the execution was cancelled",
    "cheaper_agent": "a person let it go on with a cheaper agent",
    "circuit_open": "calls of its agent fail just now, so it is left alone for a while",
    "compensation": "the execution undoes what it did",
    "compensation_stopped": "somebody stopped the compensation",
    "child": "the execution it started has not ended",
    "concurrency": "all places of its concurrency key are taken",
    "deadline": "the execution's time is over",
    "enough_items": "enough of its items completed",
    "event": "it waits for its event",
    "event_timeout": "its event did not come in time",
    "budget": "a budget is used up",
    "budget_day": "the budget of the day is used up",
    "budget_exceeded": "a budget is used up, and nobody extended it",
    "extended": "a person extended the budget",
    "aborted_by_hand": "a person gave it up",
    "failed_by_hand": "a person said so",
    "failed": "the execution failed",
    "fix": "it cannot go on without a decision",
    "guard": "its guard says it is not needed",
    "items": "it works through its items",
    "items_failed": "some of its items failed",
    "lost_race": "others were there first",
    "no_agent": "no agent was free for it in time",
    "no_failure": "nothing before it failed",
    "repeat": "its next round begins",
    "timer": "it waits for its moment",
    "not_chosen": "another branch was chosen",
    "parent_ended": "the execution that started this one ended",
    "postponed": "its agent stopped between two steps",
    "poison": "its worker vanished again and again",
    "queued": "it waits until its agent is available",
    "reassign": "another agent takes over",
    "recovery": "a failure ended the execution",
    "rejected": "a person refused",
    "restart": "somebody restarted the execution",
    "rework": "a person sent it back",
    "retry": "the attempt failed",
    "run_again": "a person asked for another attempt",
    "run_ended": "the execution ended early",
    "tool": "its agent wants to use a tool",
    "tool_child": "the execution that its agent started has not ended",
    "tool_agent": "the agent that it calls next has no place free",
    "tool_decided": "a person decided about a tool",
    "unknown_outcome": "nobody knows whether its effect happened",
    "upstream_failed": "a step before it failed",
    "upstream_skipped": "a step before it was skipped",
    "worker_lost": "its worker vanished",
}

_EXECUTION = {
    "pending": "The execution was accepted.",
    "running": "The execution runs.",
    "paused": "The execution was paused: calls in flight finish, nothing new starts.",
    "cancelling": "The execution is being stopped.",
    "completed": "The execution completed.",
    "failed": "The execution failed.",
    "cancelled": "The execution was cancelled.",
}
_COMPENSATION = {
    "due": "What the execution did will be undone, once its calls have stopped.",
    "running": "The execution undoes what it did: the compensations of its completed steps begin.",
    "stopped": "The compensation was stopped: what is left of it is not undone.",
}
_BLOCK = {
    "blocked": "waits for the steps before it",
    "ready": "is ready to run",
    "running": "started",
    "waiting_human": "waits for a person",
    "waiting_external": "waits",
    "completed": "completed",
    "failed": "failed",
    "skipped": "was skipped",
    "cancelled": "was cancelled",
}
_APPROVAL = {
    "approval_requested": "A person was asked{about}.",
    "approval_timeout": "Nobody answered{about} in time.",
    "approval_escalated": "The question{about} went to the next level.",
    "approval_cancelled": "The question{about} was withdrawn.",
}


def reason_words(code: str) -> str:
    """A stable reason code in words; one that is not known yet is shown as it is."""
    return REASONS.get(code, code.replace("_", " "))


def sentence(type: str, block_id: str | None, payload: JSONObject | None) -> str:
    """What happened, in one sentence.  An event this code does not know still gets one."""
    facts = payload if isinstance(payload, dict) else {}
    write = _WRITERS.get(type)
    if write is not None:
        return write(block_id or "", facts)
    if type in _APPROVAL:
        return _APPROVAL[type].format(about=_about(block_id or "")) + _level(facts)
    subject = f"Step “{block_id}”: " if block_id else ""
    return f"{subject}{facts.get('message') or type.replace('_', ' ')!s}"


def _execution_changed(block_id: str, facts: JSONObject) -> str:
    status = str(facts.get("status", ""))
    if facts.get("compensation") in _COMPENSATION:
        return _COMPENSATION[facts["compensation"]]
    said = _EXECUTION.get(status, f"The execution is now {status}.")
    if by := facts.get("by"):
        said = f"{said[:-1]}, by {by}."
    if why := facts.get("reason"):
        said = f"{said} Reason: {reason_words(str(why))}."
    return said


def _block_changed(block_id: str, facts: JSONObject) -> str:
    status, attempt = str(facts.get("status", "")), facts.get("attempt")
    error = facts.get("error")
    said = str(error.get("message") or "").rstrip(".") if isinstance(error, dict) else ""
    if status == "ready" and said:
        delay_s = facts.get("delaySeconds")
        when = f"in {delay_s:.3g} s" if isinstance(delay_s, int | float) and delay_s > 0 else "at once"
        return f"Attempt {attempt} of step “{block_id}” failed: {said}. It is tried again {when}."
    if facts.get("injected") and not said:
        said = f"with an injected fault ({facts['injected'].get('fault')})"
    item = f", item {facts['item']}," if facts.get("item") else ""
    found = f"Step “{block_id}”{item} {_BLOCK.get(status, f'is now {status}')}"
    if isinstance(attempt, int) and attempt > 1:
        found += f" (attempt {attempt})"
    why = said or (reason_words(str(facts["reason"])) if facts.get("reason") else "")
    return f"{found}: {why}." if why else f"{found}."


def _block_log(block_id: str, facts: JSONObject) -> str:
    return str(facts.get("message", ""))


def _block_late(block_id: str, facts: JSONObject) -> str:
    brought = "its result had been brought to its callback URL"
    other = "the step had been given to another worker"
    return (
        f"Attempt {facts.get('attempt')} of step “{block_id}” answered after"
        f" {brought if facts.get('reason') == 'callback' else other}."
        " The answer is kept for people to see and has no effect."
    )


def _block_edited(block_id: str, facts: JSONObject) -> str:
    by = facts.get("by") or "A person"
    return f"{by} put another output in place of what step “{block_id}” gave; later steps see that one."


def _block_step(block_id: str, facts: JSONObject) -> str:
    number = ".".join(map(str, facts.get("path") or [facts.get("number")]))
    what = f"Step {number} of the agent at “{block_id}”: "
    error = facts.get("error")
    if facts.get("status") == "asked":
        return f"{what}it wants to use {facts.get('name')}, and a person is asked."
    if isinstance(error, dict):
        return f"{what}{facts.get('name')} failed: {error.get('message')}"
    verb = "answered" if facts.get("kind") == "model" else "was used"
    return f"{what}{facts.get('name')} {verb}."


def _budget_warning(block_id: str, facts: JSONObject) -> str:
    return f"Step “{block_id}” goes on, but {facts.get('message') or 'a budget is nearly used up'}."


def _callback_received(block_id: str, facts: JSONObject) -> str:
    item = f", item {facts['item']}," if facts.get("item") else ""
    error = facts.get("error")
    what = f"A failure ({error.get('message')})" if isinstance(error, dict) else "The result"
    said = f"{what} of attempt {facts.get('attempt')} of step “{block_id}”{item} was brought"
    if facts.get("late"):
        return f"{said} when nothing waited for it any more. It is kept for people to see and has no effect."
    return f"{said} by its agent."


def _recovery_restarted(block_id: str, facts: JSONObject) -> str:
    return "After the failure the execution goes back to its last recovery point by itself."


def _given_up(block_id: str, facts: JSONObject) -> str:
    return "It is given up: whom the execution concerns is told."


def _recovery_failed(block_id: str, facts: JSONObject) -> str:
    return f"The execution was to go back to its last recovery point, and cannot: {facts.get('why')}"


def _incident_opened(block_id: str, facts: JSONObject) -> str:
    again = ", which had been resolved before" if facts.get("again") else ""
    return f"An incident was opened for failures of step “{block_id}” with {facts.get('code')}{again}."


def _incident_reopened(block_id: str, facts: JSONObject) -> str:
    by = f", by {facts['by']}" if facts.get("by") else ": its snooze is over"
    return f"The incident of step “{block_id}” is open again{by}."


def _incident_resolved(block_id: str, facts: JSONObject) -> str:
    return f"{facts.get('by')} resolved the incident of step “{block_id}”."


def _incident_repaired(block_id: str, facts: JSONObject) -> str:
    applied, refused = facts.get("applied"), facts.get("refused")
    said = {"done": "is done", "stopped": "was stopped", "failed": "mended nothing"}
    end = said.get(str(facts.get("state")), "has ended")
    return f"The repair of the incident of step “{block_id}” {end}: {applied} applied, {refused} refused."


def _execution_stuck(block_id: str, facts: JSONObject) -> str:
    blocks = [f"“{each}”" for each in facts.get("blocks") or ()]
    more = (facts.get("blocksTotal") or 0) - len(blocks)
    what = ", ".join(blocks) + (f" and {more} more" if more > 0 else "")
    waits = f" {what} should have gone on by now." if blocks else ""
    return f"The execution is stuck: nothing moves.{waits}"


def _execution_moves(block_id: str, facts: JSONObject) -> str:
    return "The execution is not stuck any more."


def _approval_responded(block_id: str, facts: JSONObject) -> str:
    approved = facts.get("approved")
    verb = "answered" if approved is None else "approved" if approved else "refused"
    person = facts.get("by") or facts.get("approver") or "A person"
    if facts.get("decision") == "rework":
        return f"{person} was asked{_about(block_id)}, and sent the execution back."
    return f"{person} {verb}{_about(block_id)}."


def _approval_carried(block_id: str, facts: JSONObject) -> str:
    verb, person = "approved" if facts.get("approved") else "refused", facts.get("approver") or "a person"
    return f"Nobody was asked{_about(block_id)}: {person} had {verb} the same before the restart."


def _about(block_id: str) -> str:
    return f" about step “{block_id}”" if block_id else ""


def _level(facts: JSONObject) -> str:
    level = facts.get("level")
    return f" Asked is the level {level}." if level and level != "user" else ""


_WRITERS: Mapping[str, Callable[[str, JSONObject], str]] = {
    "execution_changed": _execution_changed,
    "block_changed": _block_changed,
    "budget_warning": _budget_warning,
    "block_log": _block_log,
    "block_edited": _block_edited,
    "block_late": _block_late,
    "block_step": _block_step,
    "callback_received": _callback_received,
    "execution_stuck": _execution_stuck,
    "execution_moves": _execution_moves,
    "recovery_restarted": _recovery_restarted,
    "recovery_failed": _recovery_failed,
    "execution_given_up": _given_up,
    "incident_opened": _incident_opened,
    "incident_reopened": _incident_reopened,
    "incident_resolved": _incident_resolved,
    "incident_repaired": _incident_repaired,
    "approval_carried": _approval_carried,
    "approval_responded": _approval_responded,
}


# -- why an attempt went to its agent -------------------------------------------

NAMED = 5  # agents in one sentence
LEFT_OUT: Mapping[str, str] = {
    "banned": "banned",
    "circuit_open": "its calls failed just then",
    "cost": "too dear",
    "disabled": "switched off",
    "effect": "riskier to repeat",
    "environment": "for another environment",
    "failed_before": "had failed at this",
    "latency": "too slow",
    "not_pinned": "another is pinned",
    "schema": "takes or gives something else",
    "success": "surely fails more often",
    "text": "does something else",
    "tool_type": "of another kind",
    "unhealthy": "not well",
}


def choice_words(receipt: JSONObject | None) -> list[str]:
    """Why an attempt went to its agent, in a few sentences; none where there was no choice."""
    ranked = list((receipt or {}).get("candidates") or ())
    if receipt is None or not ranked:
        return []
    chosen, second = str(receipt["chosen"]), receipt.get("runnerUp")
    scores = {str(each["agentId"]): f"{each['score']:.2f}" for each in ranked}
    waits = {str(each["agentId"]): each.get("expectedWaitSeconds", 0) for each in ranked}
    said = [f"Chosen with {scores[chosen]}" if chosen in scores else "Chosen"]
    if second is None:
        said[0] += ": no other was fit."
    elif second == ranked[0]["agentId"]:
        said[0] += f", for {second} with {scores[second]} was busy."
    else:
        said[0] += f", before {second}" + (f" with {scores[second]}" if second in scores else "")
        said[0] += ", which was busy." if waits.get(second, 0) > waits.get(chosen, 0) else "."
    out = list(receipt.get("filteredOut") or ())
    if out:
        named = [
            f"{each['agentId']} ({LEFT_OUT.get(each['reason'], each['reason'])})" for each in out[:NAMED]
        ]
        counts: JSONObject = receipt.get("filteredOutByReason") or {}
        more = sum(count for reason, count in counts.items() if reason != "capability") - len(named)
        said.append(f"Left out: {', '.join(named)}" + (f" and {more} more." if more > 0 else "."))
    return said
