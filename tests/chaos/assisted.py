"""Cases with models and their tools, with several people, and with written ladders of recovery."""

from __future__ import annotations

from typing import Any

from .blocks import Block, Calls, Case, echo, named

# Agents that templates call by name.
BOOKS, PAYS, HELPS, REFUSES, SLEEPS = "chaos.book", "chaos.pay", "chaos.help", "chaos.refuse", "chaos.sleep"
BOOK, PAY, HELP = {"name": "book", "agentId": BOOKS}, {"name": "pay", "agentId": PAYS}, {"agentId": HELPS}


def registered(calls: Calls, child_id: str) -> list[dict[str, Any]]:
    """The agents, as REST takes them."""

    def api(agent_id: str, path: str, effect: str = "keyed") -> dict[str, Any]:
        configuration = calls.to(path)
        return {"agentId": agent_id, "toolType": "API", "configuration": configuration, "effect": effect}

    child = {"agentId": HELPS, "toolType": "UseCase", "configuration": {"templateId": child_id}}
    agents = [
        api(BOOKS, "/keyed"),
        api(PAYS, "/once", "once"),
        api(REFUSES, "/broken"),
        api(SLEEPS, "/keyed"),
        child,
    ]
    return [{**agent, "name": agent["agentId"]} for agent in agents]


def cases(calls: Calls, mcp_url: str) -> list[Case]:
    return [
        _signed(calls),
        _sampled(calls),
        _tooled(),
        _budgeted(),
        _over_mcp(calls, mcp_url),
        _replaced(calls),
        _went_back(calls),
        _given_up(calls),
        _queued(calls),
    ]


def _signed(calls: Calls) -> Case:
    """Two of three people agree; outputs are looked at and changed; one level lets its time pass."""
    review = {"type": "review", "quorum": 2, "onReject": "skip"}
    edit = {"type": "edit", "onReject": "skip"}
    levels = [{"timeout": 1500}, {"quorum": 2, "timeout": 600_000}]
    climbs = {"type": "approval", "title": "Ignored at first", "levels": levels, "onReject": "skip"}
    blocks = [
        calls.call("draft", humanInLoop=review),
        calls.call("change", "draft", humanInLoop=edit),
        calls.call("sign", humanInLoop=climbs),
        echo("end", "change", "sign"),
    ]
    return Case("two of three people", blocks, 7)


def _sampled(calls: Calls) -> Case:
    human = {"type": "review", "onReject": "skip", "sample": {"inspect": 2}}
    each = calls.call("each", forEach={"items": "input.items"}, humanInLoop=human)
    return Case("a sample is inspected", [each, echo("end", "each")], 4, input={"items": list(range(5))})


def _model(block_id: str, *after: str, uses: str, tools: list[dict[str, str]], **fields: Any) -> Block:
    """A model that calls these tools one after the other: its prompt tells it which."""
    given = {"prompt": f"Use: {uses}", "tools": tools}
    block: Block = {"blockId": block_id, "toolType": "LLM", "configuration": given, "effect": "pure"}
    return {**block, "dependencies": list(after), **fields}


def _tooled() -> Case:
    """Tools that are called freely, that a person is asked about, and that are workflows."""
    allowed = [{**BOOK, "policy": "allow"}, {**HELP, "name": "help", "policy": "allow"}]
    blocks = [
        _model("helped", uses="book help book", tools=allowed),
        _model("asking", uses="pay book", tools=[{**PAY, "policy": "ask"}, {**BOOK, "policy": "ask"}]),
        echo("end", "helped", "asking"),
    ]
    return Case("a model with tools", blocks, 8)


def _budgeted() -> Case:
    """The model's third answer is asked for when the tokens of two have been used up."""
    tools = [{**BOOK, "policy": "allow"}]
    frugal = _model("frugal", uses="book book book", tools=tools, budget={"tokens": 14})
    return Case("a budget is used up", [frugal, echo("end", "frugal")], 4)


def _over_mcp(calls: Calls, mcp_url: str) -> Case:
    tool: dict[str, Any] = {"toolType": "MCP", "configuration": {"url": mcp_url, "tool": "book"}}
    blocks = [calls.call("m1", **tool), calls.call("m2", "m1", **tool)]
    return Case("an MCP server", blocks, 6)


def _ladder(*rungs: str, **more: Any) -> dict[str, Any]:
    return {"agent": list(rungs), "configuration": list(rungs), **more}


def _replaced(calls: Calls) -> Case:
    """What one agent refuses another one does."""
    recovery = _ladder("retry", "reassign", "ask", alternatives=[BOOKS])
    policy = {"maxRetries": 1, "initialDelay": 100, "jitter": False, "retryConditions": ["configuration"]}
    blocks = [named("taken", REFUSES, recovery=recovery, retryPolicy=policy), calls.call("after", "taken")]
    return Case("another agent takes over", blocks, 5)


def _went_back(calls: Calls) -> Case:
    """The execution goes back to its recovery point by itself, and then it works."""
    blocks = [
        calls.call("kept", checkpoint=True),
        calls.call("again", "kept"),
        calls.call("sulks", "again", path="/sulky", recovery=_ladder("restart", "ask")),
    ]
    return Case("gone back by itself", blocks, 6)


def _given_up(calls: Calls) -> Case:
    recovery = _ladder("compensate")
    blocks = [calls.booked("b0"), calls.call("bad", "b0", path="/broken", recovery=recovery)]
    return Case("undone as its ladder says", blocks, 3)


def _queued(calls: Calls) -> Case:
    """The agent is switched off meanwhile; the block waits for it."""
    recovery = _ladder("queue", "ask", transient=["retry", "queue", "ask"], queueFor=60_000)
    blocks = [echo("nap", wait={"seconds": 1}), named("sleeps", SLEEPS, "nap", recovery=recovery)]
    return Case("waits for its agent", blocks, 3, "switch_off", alone=True)
