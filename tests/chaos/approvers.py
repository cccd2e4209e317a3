"""Those who answer what the rig's executions ask."""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

from .agents import Ledger, chance
from .people import GaveUp, History, Person, Refused

Answer = dict[str, Any]
YES: Answer = {"approved": True}
NO: Answer = {"approved": False}


class Approvers:
    """Answer within a second or so; of doubtful effects they know the ledger.

    The first of them answers everything, the others what needs several.
    """

    def __init__(self, people: list[Person], ledger: Ledger, history: History) -> None:
        self.people = people
        self.ledger = ledger
        self.history = history
        self.stop = threading.Event()
        self.answered: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._work, daemon=True, name="approvers")

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self.stop.set()
        self._thread.join(20)

    def unanswered(self) -> Counter[str]:
        return sum((person.unanswered for person in self.people), Counter())

    def _work(self) -> None:
        while not self.stop.wait(0.7):
            for number, person in enumerate(self.people):
                try:
                    for question in person.get("/approvals/pending?limit=100")["approvals"]:
                        if number == 0 or question["quorum"] != "any":
                            self._answer(person, question)
                except GaveUp as error:
                    self.history.problem(f"approver: {error}")
                except Exception as error:  # noqa: BLE001
                    self.history.problem(f"approver: {error!r}")

    def _answer(self, person: Person, question: dict[str, Any]) -> None:
        title = question["request"].get("title")
        if title == "Ignored" or (title == "Ignored at first" and not question["levelIndex"]):
            return
        answer = self._decide(person, question)
        body = {"contentHash": question["contentHash"], **answer}
        try:
            person.post(f"/approvals/{question['approvalId']}/respond", body)
            self.answered[question["type"]] += 1
        except Refused as refused:
            if refused.status not in (404, 409):  # answered by our own repeat, or withdrawn
                raise

    def _decide(self, person: Person, question: dict[str, Any]) -> Answer:
        agrees = chance("approve", person.username, question["approvalId"]) < 0.8
        match question["type"]:
            case "input":
                return {**YES, "response": {"which": "this"}}
            case "approval":
                return YES if agrees else NO
            case "review" | "edit":
                return self._looked_at(question) if agrees else NO
            case "budget":
                return {
                    **YES,
                    "response": {"action": "extend", "tokens": 100} if agrees else {"action": "stop"},
                }
            case "tool":
                return self._about_a_tool(question, agrees)
            case _:
                return self._fixed(question)

    def _looked_at(self, question: dict[str, Any]) -> Answer:
        """As it is, or with a word of one's own, which the others are shown."""
        shown = question["request"].get("editable")
        marked = {
            name: {**value, "seen": True} if isinstance(value, dict) else value
            for name, value in (shown if isinstance(shown, dict) else {}).items()
        }
        if question["type"] == "review" and isinstance(shown, dict):
            marked = {**shown, "seen": True}
        if marked == shown or chance("edit", question["approvalId"]) < 0.6:
            return YES
        self.answered["changed"] += 1
        return {**YES, "response": {"edited": marked}}

    def _about_a_tool(self, question: dict[str, Any], agrees: bool) -> Answer:
        """Whether it may be called; or whether it was, where nobody knows what came of it."""
        run, block, step = question["executionId"], question["blockId"], question["request"]["facts"]["step"]
        steps = self.people[0].get(f"/executions/{run}/blocks/{block}/steps?limit=100")["steps"]
        found = next(each for each in steps if each["number"] == step)
        if found["status"] != "unknown":
            return YES if agrees else NO
        done = bool(self.ledger.effects.get(found["idempotencyKey"]))
        self.answered["looked, done" if done else "looked, not done"] += 1
        return {**YES, "response": {"action": "done", "result": {"looked": True}}} if done else YES

    def _fixed(self, question: dict[str, Any]) -> Answer:
        run, block = question["executionId"], question["blockId"]
        row = self.people[0].get(f"/executions/{run}/blocks/{block}")
        if row["reason"] != "unknown_outcome":
            again = question["attempt"] < 30
            return {**YES, "response": {"action": "retry" if again else "fail"}}
        if self._happened(run, block):
            self.answered["looked, done"] += 1
            return {**YES, "response": {"action": "complete", "output": {"looked": True}}}
        self.answered["looked, not done"] += 1
        return {**YES, "response": {"action": "retry"}}

    def _happened(self, run: str, block: str) -> bool:
        return any(key.startswith(f"{run}:{block}:") and n for key, n in list(self.ledger.effects.items()))
