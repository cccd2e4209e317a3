"""The page of one execution, in Chromium against the running product."""

from __future__ import annotations

import json
import threading
from itertools import chain, repeat

import pytest

from agentflow.types import JSONObject
from tests.factories.agents import AgentFactory
from tests.factories.templates import write_template
from tests.llm import ScriptedModel, completion, wants
from tests.servers import Exchange, http_server
from tests.service import Service

from .conftest import Team, Visit, violations

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def step(block_id: str, *dependencies: str, **more: object) -> JSONObject:
    return {
        "blockId": block_id,
        "name": block_id.capitalize(),
        "agentId": "worker",
        "dependencies": list(dependencies),
        **more,
    }


def test_the_graph_turns_green_live(service: Service, team: Team, visit: Visit) -> None:
    gate = step("gate", "fetch", humanInLoop={"type": "approval", "title": "Go on?"})
    execution = team.start(step("fetch", effect="once"), gate, step("notify", "gate"))
    (asked,) = service.until(lambda: team.api(team.approver).get("/approvals/pending").json()["approvals"])
    page = visit(team.approver, f"/executions/{execution}/")
    page.locator('.node[data-st="human"]', has_text="Gate").wait_for()
    page.locator('.node[data-st="pending"]', has_text="Notify").wait_for()
    page.locator(".why", has_text="Gate waits for an approval").wait_for()
    page.locator("#live:not(.off)").wait_for()
    assert violations(page) == []
    assert page.get_by_role("link", name="Open the question").get_attribute("href") == (
        f"/inbox/{asked['approvalId']}/"
    )

    reply = team.api(team.approver).post(f"/approvals/{asked['approvalId']}/respond", json={"approved": True})
    assert reply.status_code == 200, reply.text
    page.locator(".head .st", has_text="Completed").wait_for()
    assert page.locator('.node[data-st="completed"]').count() == 3
    assert page.locator(".why").count() == 0
    page.locator("#log", has_text="The execution completed.").wait_for()


def test_a_failure_is_said_first_and_its_step_is_chosen(service: Service, team: Team, visit: Visit) -> None:
    broken = step("charge", "fetch", retryPolicy={"maxRetries": 1, "onExhausted": "fail", "initialDelay": 1})
    execution = team.start(
        step("fetch"),
        broken,
        step("ship", "charge"),
        failures={"charge": [{"kind": "transient", "times": 5}]},
    )
    page = visit(team.approver, f"/executions/{execution}/")
    page.locator(".why", has_text="Charge failed").wait_for()
    page.locator('#dag .node[data-st="failed"][aria-pressed="true"]').wait_for()
    page.get_by_role("tab", name="Attempts 2").click()
    assert page.locator(".tries li").count() == 2
    page.locator('.node[data-st="skipped"]', has_text="Ship").wait_for()
    healing = page.locator("#healing")
    healing.get_by_text("It failed again").wait_for()
    assert healing.locator("li").count() == 2
    healing.get_by_text("Not retry: tried again once.").wait_for()


def test_an_operator_pauses_resumes_and_cancels(service: Service, team: Team, visit: Visit) -> None:
    execution = team.start(step("gate", humanInLoop={"type": "approval"}), step("end", "gate"))
    page = visit(team.author, f"/executions/{execution}/")
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Resume").click()
    page.get_by_role("button", name="Pause").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Confirm: cancel").click()
    page.locator(".head .st", has_text="Cancelled").wait_for()
    assert page.locator(".acts").count() == 0


def test_what_is_undone_comes_up_as_steps_of_its_own(service: Service, team: Team, visit: Visit) -> None:
    undo = {"agentId": "worker"}
    execution = team.start(
        step("flight", compensation=undo),
        step("hotel", "flight", compensation=undo),
        step("car", "hotel", humanInLoop={"type": "approval"}),
        failures={"flight:compensation": [{"kind": "critical", "times": 1}]},
    )
    page = visit(team.author, f"/executions/{execution}/")
    page.locator(".node").first.wait_for()
    assert page.locator(".node").count() == 3
    page.get_by_role("button", name="Cancel and undo").click()
    page.get_by_role("button", name="Confirm: cancel and undo").click()
    page.locator('.node[data-st="completed"]', has_text="Undo: Hotel").wait_for()
    page.locator('.node[data-st="human"]', has_text="Undo: Flight").wait_for()
    page.locator(".why", has_text="Undo: Flight waits for a decision on how to go on").wait_for()
    page.get_by_role("button", name="Stop undoing").click()
    page.get_by_role("button", name="Confirm: stop undoing").click()
    page.locator(".head .st", has_text="Cancelled").wait_for()
    page.locator('.node[data-st="cancelled"]', has_text="Undo: Flight").wait_for()
    assert page.locator(".acts").count() == 0


def test_an_approver_has_no_buttons_to_steer_with(team: Team, visit: Visit) -> None:
    execution = team.start(step("gate", humanInLoop={"type": "approval"}))
    page = visit(team.approver, f"/executions/{execution}/")
    page.locator(".node").wait_for()
    assert page.locator("[data-do]").count() == 0


def test_another_workspace_s_run_is_not_there(service: Service, team: Team, visit: Visit) -> None:
    from agentflow.governance.roles import Role
    from tests.factories.governance import WorkspaceFactory, member

    stranger = member(WorkspaceFactory.create(), Role.ADMIN)
    execution = team.start(step("only"))
    page = visit(stranger, "/executions/")
    reply = page.goto(f"/executions/{execution}/")
    assert reply.status == 404
    assert page.goto(f"/executions/{execution}/state").status == 404


def test_two_thousand_steps_are_drawn_and_chosen(service: Service, team: Team, visit: Visit) -> None:
    wide = [step(f"part{n}", "split") for n in range(1998)]
    execution = team.start(step("split"), *wide, step("join", "part0", "part1997"))
    page = visit(team.approver, f"/executions/{execution}/")
    page.locator("#settled", has_text="of 2000 settled").wait_for()
    assert page.locator(".node").count() == 0  # boxes on the canvas instead
    # While it runs the list takes in what started; then it stays.
    page.locator(".head .st", has_text="Completed").wait_for(timeout=60_000)
    block_id = page.locator("button.g-row").nth(3).get_attribute("data-id")
    page.locator(f'button.g-row[data-id="{block_id}"]').click()
    page.locator("#step-name", has_text=str(block_id).capitalize()).wait_for()


def test_an_operator_goes_back_to_a_point_and_forks_from_it(
    service: Service, team: Team, visit: Visit
) -> None:
    execution = team.start(
        step("fetch", checkpoint=True),
        step("charge", "fetch"),
        step("ship", "charge", humanInLoop={"type": "approval"}),
    )
    api = team.api(team.author)
    service.until(lambda: team.api(team.approver).get("/approvals/pending").json()["approvals"])
    assert api.post(f"/executions/{execution}/pause", json={}).status_code == 200
    edit = api.patch(f"/executions/{execution}/context", json={"outputs": {"fetch": {"n": 2}}})
    assert edit.status_code == 200
    assert api.post(f"/executions/{execution}/cancel", json={}).status_code == 200
    page = visit(team.author, f"/executions/{execution}/")
    page.locator(".node", has_text="Fetch").locator("small", has_text="edited").wait_for()
    page.get_by_role("button", name="Go back to Checkpoint Fetch").click()
    sure = page.locator(".sure")
    sure.get_by_text("2 steps run again: Charge, Ship.").wait_for()
    sure.get_by_text("unless the question is the same as before: Ship").wait_for()
    page.keyboard.press("Escape")
    assert sure.count() == 0
    page.get_by_role("button", name="Go back to Checkpoint Fetch").click()
    sure.get_by_role("button", name="Go back").click()
    page.locator(".head .st", has_text="Waiting").wait_for()
    page.locator("#points li", has_text="Before a restart").wait_for()

    page.get_by_role("button", name="Fork from Checkpoint Fetch").click()
    sure.get_by_role("button", name="Start the fork").click()
    page.wait_for_url(lambda address: execution not in address)
    page.get_by_role("link", name=execution[:8]).wait_for()
    service.until(lambda: len(team.api(team.approver).get("/approvals/pending").json()["approvals"]) == 2)


def test_who_may_not_operate_sees_the_points_and_no_buttons(
    service: Service, team: Team, visit: Visit
) -> None:
    execution = team.start(step("fetch", checkpoint=True))
    page = visit(team.approver, f"/executions/{execution}/")
    page.locator("#points li", has_text="Checkpoint: Fetch").wait_for()
    assert page.locator("#points button").count() == 0
    assert page.goto(f"/executions/{execution}/points/1?do=fork").status == 403


def test_what_an_agent_writes_and_does_is_seen_as_it_comes(
    service: Service, team: Team, visit: Visit
) -> None:
    """A model that writes on and on; then it wants to use a tool, which a person decides."""
    goes_on = threading.Event()

    def half(exchange: Exchange) -> None:
        asks = json.dumps(wants(("refund", {"order": "A-1"}))["choices"][0]["message"]["tool_calls"])
        exchange.start(content_type="text/event-stream", connection="close")
        exchange.handler.close_connection = True
        for word in chain(["Let me look"], repeat(" closer")):
            exchange.write(f'data: {{"choices": [{{"delta": {{"content": "{word}"}}}}]}}\n\n'.encode())
            if goes_on.wait(0.2):
                break
        exchange.write(
            f'data: {{"choices": [{{"delta": {{"tool_calls": {asks}}}, "finish_reason": "tool_calls"}}]}}\n\n'
            "data: [DONE]\n\n".encode()
        )

    with http_server() as server:
        team.workspace.egress_allow = [server.allowed]
        team.workspace.save()
        ScriptedModel(server, [half, completion("Refunded.")])
        agent = {"baseUrl": server.url("/v1"), "model": "small", "prompt": "Help.", "stream": True}
        agent["tools"] = ["refund"]
        AgentFactory.create(workspace=team.workspace, agent_id="help", tool_type="LLM", configuration=agent)
        url = {"url": server.url("/refund"), "method": "POST"}
        AgentFactory.create(workspace=team.workspace, agent_id="refund", tool_type="API", configuration=url)
        server.on("/refund", lambda exchange: exchange.json({"refunded": True}))
        version = write_template(
            team.workspace, team.author, {"blockId": "answer", "name": "Answer", "agentId": "help"}
        )
        reply = team.api(team.author).post("/executions", json={"templateId": str(version.template_id)})
        execution = reply.json()["executionId"]
        page = visit(team.author, f"/executions/{execution}/")
        service.until(lambda: server.seen)
        page.locator('.node[data-st="running"]', has_text="Answer").wait_for()
        page.locator("#writing", has_text="Let me look closer").wait_for()
        goes_on.set()
        page.locator('.node[data-st="human"]', has_text="Answer").wait_for()
        page.get_by_role("tab", name="Attempts").click()
        page.locator(".tries li", has_text="Tool refund").wait_for()
        assert page.locator(".tries li", has_text="Let me look closer").count() == 1
