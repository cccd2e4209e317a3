"""The demo as its first visitor meets it: it waits for a person, and ends as they decide."""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.core.management import call_command
from pytest_django import Settings

from agentflow.agents.models import Agent
from agentflow.governance.models import Workspace
from executions.models import RoutingReceipt
from tests.service import Service, free_port
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow


@dataclass
class Demo:
    service: Service
    facts: dict[str, Any]
    shop: str

    def call(self, who: str, method: str, path: str, body: Any = None) -> Any:
        token = self._send("POST", "/auth/token", self.facts["users"][who])["access"]
        return self._send(method, path, body, Authorization=f"Bearer {token}")

    def _send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        request = urllib.request.Request(
            f"{self.service.base_url}/api/v1{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json", **headers},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
            return json.load(reply)

    def start(self, template: str, input: Any) -> str:
        body = {"templateId": self.facts["templates"][template], "input": input}
        return str(self.call("operator", "POST", "/executions", body)["executionId"])

    def asked(self, execution_id: str) -> dict[str, Any]:
        path = f"/approvals/pending?executionId={execution_id}"
        found = self.service.until(
            lambda: self.call("approver", "GET", path)["approvals"], why="the question"
        )
        (approval,) = found
        assert approval["type"] != "fix", approval["request"]
        return dict(approval)

    def answer(self, approval: dict[str, Any], **answer: Any) -> None:
        answer["contentHash"] = approval["contentHash"]
        self.call("approver", "POST", f"/approvals/{approval['approvalId']}/respond", answer)

    def ended(self, execution_id: str) -> dict[str, Any]:
        def look() -> dict[str, Any] | None:
            found: dict[str, Any] = self.call("viewer", "GET", f"/executions/{execution_id}")
            return found if found["status"] in {"completed", "failed", "cancelled"} else None

        found = self.service.until(look, why="the run to end")
        assert found is not None
        return found

    def ledger(self, collection: str) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.shop}/{collection}", timeout=PATIENCE_S) as reply:
            entries: list[dict[str, Any]] = json.load(reply)[collection]
        return entries


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def port(service: Service, home: Path) -> int:
    found = free_port()
    service.start_command(
        "shop", "demo_service", says="ready", AGENTFLOW_DEMO_PORT=str(found), AGENTFLOW_HOME=str(home)
    )
    return found


@pytest.fixture
def demo(service: Service, settings: Settings, home: Path, port: int) -> Demo:
    settings.AGENTFLOW_HOME, settings.AGENTFLOW_DEMO_PORT = home, port
    settings.AGENTFLOW_BASE_URL = service.base_url
    call_command("load_demo", verbosity=0)
    facts = json.loads((home / "demo.json").read_text())
    return Demo(service, facts, f"http://127.0.0.1:{port}")


def statuses(run: dict[str, Any]) -> dict[str, str]:
    return {block["blockId"]: block["status"] for block in run["blockExecutions"]}


def test_it_was_started_waits_for_a_person_and_finishes_when_approved(demo: Demo) -> None:
    approval = demo.asked(demo.facts["executionId"])
    assert approval["request"]["facts"]["risk"] == "medium"  # the script's word
    assert "30 days" in approval["request"]["facts"]["policy"]  # the MCP server's
    demo.answer(approval, approved=True)
    run = demo.ended(demo.facts["executionId"])
    assert run["status"] == "completed"
    assert {k: v for k, v in statuses(run).items() if v != "completed"} == {"word_refusal": "skipped"}
    (refund,) = (entry for entry in demo.ledger("refunds") if entry["orderId"] == "A-1042")
    assert refund["amount"] == 640
    assert demo.ledger("messages")[-1]["text"].endswith("Refunded: EUR 640")


def test_a_person_may_pay_half_and_write_the_message(demo: Demo) -> None:
    execution_id = demo.start("Refund request", {"orderId": "A-1044", "amount": 300})
    approval = demo.asked(execution_id)
    demo.answer(approval, approved=True, response={"pay": "half of it", "message": "As agreed by phone."})
    assert demo.ended(execution_id)["status"] == "completed"
    (refund,) = (entry for entry in demo.ledger("refunds") if entry["orderId"] == "A-1044")
    assert refund["amount"] == 150
    assert demo.ledger("messages")[-1]["text"].startswith("As agreed by phone.")


def test_a_refusal_pays_nothing_and_tells_the_customer(demo: Demo) -> None:
    before = len(demo.ledger("refunds"))
    execution_id = demo.start("Refund request", {"orderId": "A-1044", "amount": 329})
    demo.answer(demo.asked(execution_id), approved=False, comments="Too late.")
    run = demo.ended(execution_id)
    assert run["status"] == "completed"
    assert statuses(run)["pay_refund"] == "skipped"
    assert len(demo.ledger("refunds")) == before
    assert "cannot refund" in demo.ledger("messages")[-1]["text"]


def test_a_small_refund_asks_nobody(demo: Demo) -> None:
    execution_id = demo.start("Refund request", {"orderId": "A-1043", "amount": 79.5})
    run = demo.ended(execution_id)
    assert run["status"] == "completed"
    assert statuses(run)["approve_refund"] == "skipped"
    assert [entry["amount"] for entry in demo.ledger("refunds") if entry["orderId"] == "A-1043"] == [79.5]


def test_twelve_cities_are_added_up(demo: Demo) -> None:
    run = demo.ended(demo.start("Weekly sales", {}))
    assert run["status"] == "completed"
    assert run["globalContext"]["add_up"]["cities"] == 12


def test_only_production_waits_for_the_gate(demo: Demo) -> None:
    execution_id = demo.start("Release", {"version": "2.4.0"})
    approval = demo.asked(execution_id)
    waiting = {"gate": "waiting_human", "production": "blocked", "announce": "blocked"}

    def look() -> bool:
        run = demo.call("viewer", "GET", f"/executions/{execution_id}")
        return {k: v for k, v in statuses(run).items() if v != "completed"} == waiting

    demo.service.until(look, why="all but the gate to be done")
    demo.answer(approval, approved=False)
    run = demo.ended(execution_id)
    assert run["status"] == "completed"
    assert set(statuses(run).values()) == {"completed", "skipped"}


def test_a_reviewers_form_chooses_the_way(demo: Demo) -> None:
    document = {"title": "On tea", "text": "Tea is fine. TODO.", "author": "ann@example.com"}
    execution_id = demo.start("Document review", document)
    demo.answer(
        demo.asked(execution_id), approved=True, response={"verdict": "change", "remarks": "Say more."}
    )
    run = demo.ended(execution_id)
    assert run["status"] == "completed"
    chosen = {name for name in ("publish", "ask_changes", "decline") if statuses(run)[name] == "completed"}
    assert chosen == {"ask_changes"}
    assert demo.ledger("messages")[-1]["text"].endswith("Say more.")


def test_loading_it_again_starts_nothing(demo: Demo) -> None:
    before = demo.call("viewer", "GET", "/executions")["total"]
    call_command("load_demo", verbosity=0)
    assert demo.call("viewer", "GET", "/executions")["total"] == before


def test_parcels_go_to_several_couriers_and_the_clock_finds_the_tools_of_the_source(demo: Demo) -> None:
    run = demo.ended(demo.start("Shipping quotes", {}))
    assert run["status"] == "completed"
    assert len(run["globalContext"]["quote"]) == 12
    receipts = RoutingReceipt.objects.filter(block__block_id="quote")
    assert set(receipts.values_list("agent_id", flat=True)) > {"couriers.swift"}
    found = {"policies.refund_policy"}
    service = demo.service
    service.until(lambda: found <= set(Agent.objects.values_list("agent_id", flat=True)), why="the source")


def test_when_one_of_the_agents_dies_its_work_goes_on_by_the_others(demo: Demo) -> None:
    """kill -9 of the server of an agent that everybody prefers, while it is at work."""
    spare = free_port()
    environment = {"AGENTFLOW_DEMO_PORT": str(spare), "AGENTFLOW_HOME": str(demo.service.logs)}
    demo.service.start_command("spare", "demo_service", says="ready", **environment)
    workspace = Workspace.objects.get(pk=demo.facts["workspaceId"])
    workspace.egress_allow = [*workspace.egress_allow, f"127.0.0.1:{spare}"]
    workspace.save()
    url = f"http://127.0.0.1:{spare}/couriers/steady/quotes/{{weight}}"
    fields: dict[str, Any] = {
        "agentId": "couriers.spare",
        "name": "Spare",
        "toolType": "API",
        "effect": "pure",
    }
    fields |= {
        "configuration": {"url": url},
        "capabilities": ["shipping.quote"],
        "limits": {"concurrency": 4},
    }
    demo.call("operator", "POST", "/agents", fields)
    demo.call("operator", "POST", "/agents/policies", {"kind": "prefer", "agentId": "couriers.spare"})

    execution_id = demo.start("Shipping quotes", {"parcels": [1.5] * 40})
    receipts = RoutingReceipt.objects.filter(block__execution=UUID(execution_id))
    demo.service.until(lambda: receipts.filter(agent_id="couriers.spare").exists(), why="it to be at work")
    demo.service.kill("spare")
    run = demo.ended(execution_id)
    assert run["status"] == "completed"
    assert all(quote["price"] for quote in run["globalContext"]["quote"])
    went: dict[int, list[str]] = {}
    for block, agent_id in receipts.order_by("block", "attempt").values_list("block_id", "agent_id"):
        went.setdefault(block, []).append(agent_id)
    moved = [agents for agents in went.values() if agents[0] == "couriers.spare" and len(agents) > 1]
    assert moved
    assert all(agents[1] != "couriers.spare" for agents in moved)
    reasons = [
        out["reason"]
        for receipt in receipts.values_list("receipt", flat=True)
        for out in receipt["filteredOut"]
        if out["agentId"] == "couriers.spare"
    ]
    assert "failed_before" in reasons
