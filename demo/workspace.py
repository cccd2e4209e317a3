"""What the demo consists of: its people, scripts, agents and workflows, as data."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from agentflow.agents.services.registration import AgentFields
from agentflow.agents.services.sources import SourceFields
from agentflow.governance.roles import Role
from agentflow.types import JSONObject

HERE = Path(__file__).resolve().parent
SLUG = "customer-care"
NAME = "Customer care"
MCP_SERVER = "refund-policies"
CAPABILITY = "shipping.quote"
STARTED = "refund-request"  # the one that is started, so that the inbox has a question
STARTED_WITH: JSONObject = {
    "orderId": "A-1042",
    "amount": 640,
    "reason": "It arrived with a cracked water tank, and I need one before the weekend.",
}
# What others call comes first.
QUOTES = "shipping-quotes"  # its steps name no agent; run at the start, so that agents have something to show
QUOTED_AT_START: tuple[JSONObject, ...] = ({}, {})
DEFINITIONS = ("tell-the-customer", STARTED, "weekly-sales", "release", "document-review", QUOTES)
SCRIPTS = {
    "refund_risk": "Scores how unusual a refund is.",
    "sum_sales": "Adds up what the cities sold.",
    "check_document": "Counts words and finds what an editor would mark.",
}
LLM_AGENT = "answers.draft"


@dataclass(frozen=True, slots=True)
class Person:
    """One of the demo's users; `key` is their name in demo.json, and their username where it is free."""

    key: str
    first_name: str
    last_name: str
    role: Role
    staff: bool = False  # may open the admin

    @property
    def email(self) -> str:
        """By which the demo knows its own users again."""
        return f"{self.key}@{SLUG}.example"


PEOPLE = (
    Person("admin", "Robin", "Adler", Role.ADMIN, staff=True),
    Person("author", "Ines", "Duarte", Role.AUTHOR, staff=True),
    Person("operator", "Tom", "Okafor", Role.OPERATOR, staff=True),
    Person("approver", "Mara", "Lindt", Role.APPROVER),
    Person("approver2", "Jonas", "Weber", Role.APPROVER),
    Person("viewer", "Priya", "Nair", Role.VIEWER),
)


def script_source(name: str) -> str:
    return (HERE / "scripts" / f"{name}.py").read_text()


def definition(name: str, *, llm: bool) -> JSONObject:
    """A workflow as its JSON file has it; with a language model, the draft is the model's work."""
    body: JSONObject = json.loads((HERE / "definitions" / f"{name}.json").read_text())
    if llm:
        for block in body["blocks"]:
            if block["blockId"] == "draft_answer":
                block |= {
                    "name": "Draft the answer",
                    "description": "A language model writes it; a person may change it.",
                    "agentId": LLM_AGENT,
                    "toolType": "LLM",
                    "configuration": {"simulate": {"runtimeSeconds": 2}},
                }
    return body


def shop_agents(shop: str) -> list[AgentFields]:
    """Those that call the shop, whose address may change from one start to the next."""

    def api(agent_id: str, name: str, method: str, path: str, effect: str) -> AgentFields:
        return AgentFields(
            agent_id=agent_id,
            name=name,
            tool_type="API",
            configuration={"method": method, "url": shop + path},
            effect=effect,
        )

    def courier(name: str, said: str, per_call: float) -> AgentFields:
        return dataclasses.replace(
            api(f"couriers.{name}", said, "GET", f"/couriers/{name}/quotes/{{weight}}", "pure"),
            capabilities=[{"name": CAPABILITY, "description": "Says what sending a parcel costs."}],
            cost={"perCall": per_call, "currency": "EUR"},
            limits={"concurrency": 2},
        )

    return [
        api("orders.read", "Orders: read one", "GET", "/orders/{orderId}", "pure"),
        api("sales.read", "Sales: read a city's", "GET", "/sales/{city}", "pure"),
        # Keyed: the shop knows a repeated call by its Idempotency-Key.
        api("refunds.pay", "Refunds: pay one", "POST", "/refunds", "keyed"),
        api("messages.send", "Messages: send one", "POST", "/messages", "keyed"),
        # Three that can do the same.
        courier("swift", "Courier Swift: quote a parcel", per_call=0.02),
        courier("steady", "Courier Steady: quote a parcel", per_call=0.01),
        courier("shaky", "Courier Shaky: quote a parcel", per_call=0.005),
    ]


def other_agents(*, tell_template_id: str) -> list[AgentFields]:
    return [
        _script("refunds.risk", "Refunds: score the risk", "refund_risk"),
        _script("sales.sum", "Sales: add up", "sum_sales"),
        _script("documents.check", "Documents: look over", "check_document"),
        AgentFields(
            agent_id="refunds.policy",
            name="Refunds: look up the policy",
            tool_type="MCP",
            configuration={
                "server": MCP_SERVER,
                "tool": "refund_policy",
                "annotations": {"readOnlyHint": True},
            },
        ),
        AgentFields(
            agent_id="customers.tell",
            name="Customers: tell one",
            tool_type="UseCase",
            configuration={"templateId": tell_template_id},
        ),
        AgentFields(
            agent_id=LLM_AGENT,
            name="Answers: draft one",
            description="Asks the language model that AGENTFLOW_LLM_BASE_URL names.",
            tool_type="LLM",
            configuration={
                "system": "You write short, warm letters for a shop's customer care. Plain text, no subject.",
                "prompt": "Write to {{order.customer.name}}: order {{order.orderId}} ({{order.product}}) is"
                " refunded. Name no amount: it is added below. The customer said: {{reason}}",
                "maxTokens": 400,
            },
        ),
    ]


# What operators said about choosing, in the whole workspace.
PREFERRED = "couriers.swift"
PREFERRED_WHY = "Our contract: as long as Swift has a place free, it quotes."


def source() -> SourceFields:
    """Where the clock finds more agents: the tools of the demo's MCP server."""
    return SourceFields(
        kind="mcp", name="Refund policies", server=MCP_SERVER, configuration={"prefix": "policies."}
    )


def _script(agent_id: str, name: str, script: str) -> AgentFields:
    return AgentFields(
        agent_id=agent_id,
        name=name,
        description=SCRIPTS[script],
        tool_type="Script",
        configuration={"script": script},
    )
