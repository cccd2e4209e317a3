"""The inbox as approvers use it, in Chromium against the running product."""

from __future__ import annotations

from typing import Any

import pytest

from agentflow.governance.models import User
from agentflow.governance.roles import Role
from agentflow.governance.services.workspaces import grant
from agentflow.types import JSONObject
from approvals.models import Approval
from approvals.notify import links
from approvals.notify.models import Delivery, SignedLink
from executions.models import Execution
from tests.factories.approvals import ApprovalFactory, asking_execution
from tests.service import Service

from .conftest import PHONE, Team, Visit, violations

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def approval(title: str) -> JSONObject:
    return {"blockId": "pay", "name": "Pay refund", "humanInLoop": {"type": "approval", "title": title}}


# \pN is any digit for the server, and the letters p and N for a browser.
SERVER_KNOWS_BETTER = r"^[A-Z]{2}([1-9][0-9]{7}|[^\pN]{8})$"
TAX_FORM: JSONObject = {
    "blockId": "tax",
    "name": "Tax details",
    "humanInLoop": {
        "type": "input",
        "title": "Add the tax number of supplier 3381",
        "inputSchema": {
            "type": "object",
            "required": ["taxNumber"],
            "properties": {
                "taxNumber": {"type": "string", "title": "Tax number", "pattern": SERVER_KNOWS_BETTER},
                "note": {"type": "string", "title": "Note"},
            },
        },
    },
}


def status(team: Team, execution: str) -> str:
    reply = team.api(team.author).get(f"/executions/{execution}", params={"fields": "status"})
    return str(reply.json()["status"])


def test_a_question_arrives_live_and_is_approved_on_a_phone(
    service: Service, team: Team, visit: Visit
) -> None:
    page = visit(team.approver, "/inbox/", screen=PHONE)
    page.get_by_text("Nothing waits for you").wait_for()
    page.locator("#live:not(.off)").wait_for()

    send: JSONObject = {"blockId": "send", "agentId": "builtin.echo", "effect": "once"}
    execution = team.start(approval("Pay back €640.00 for order 48213?"), {**send, "dependencies": ["pay"]})
    page.get_by_role("link", name="Pay back €640.00 for order 48213?").click()
    page.get_by_role("heading", name="Pay back €640.00 for order 48213?").wait_for()
    assert page.locator(".tabbar").is_hidden()
    page.get_by_role("button", name="Approve").click()
    page.get_by_role("button", name="Confirm: approve").click()  # what follows cannot be undone

    page.get_by_text("Noor Haddad approved this").first.wait_for()
    service.until(lambda: status(team, execution) == "completed")


def test_new_questions_wait_behind_a_button_and_nothing_jumps(team: Team, visit: Visit) -> None:
    team.start(approval("First?"))
    page = visit(team.approver, "/inbox/")
    page.get_by_role("heading", name="First?").wait_for()
    page.locator("#live:not(.off)").wait_for()
    page.fill("#comment", "half a sentence")

    team.start(approval("Second?"))
    page.get_by_role("button", name="1 new").wait_for()
    assert page.locator(".item").count() == 1
    assert page.input_value("#comment") == "half a sentence"
    page.get_by_role("button", name="1 new").click()
    page.get_by_role("link", name="Second?").wait_for()
    assert page.input_value("#comment") == "half a sentence"


def test_a_refusal_takes_its_reason_in_place(service: Service, team: Team, visit: Visit) -> None:
    execution = team.start(approval("Deploy to production?"))
    service.until(lambda: pending(team))
    page = visit(team.approver, "/inbox/")
    page.get_by_role("heading", name="Deploy to production?").wait_for()
    page.keyboard.press("r")
    page.locator("#reason").fill("Tests are red")
    page.keyboard.press("Enter")

    page.get_by_text("Noor Haddad rejected this").first.wait_for()
    page.get_by_text("Tests are red", exact=True).wait_for()
    service.until(lambda: status(team, execution) == "failed")


def test_a_form_is_sent_once_it_is_right(service: Service, team: Team, visit: Visit) -> None:
    execution = team.start(TAX_FORM)
    service.until(lambda: pending(team))
    page = visit(team.approver, "/inbox/")
    tax_number = page.get_by_role("textbox", name="Tax number")
    tax_number.fill("12")
    page.get_by_role("button", name="Send answer").click()
    page.locator("#form .invalid-feedback").first.wait_for()
    page.get_by_role("button", name="Fill in 1 field").wait_for()

    tax_number.fill("DE00000000")
    tax_number.blur()
    page.get_by_role("button", name="Send answer").click()
    page.locator("#form .invalid-feedback", has_text="DE00000000").wait_for()
    page.locator("#trouble", has_text="One field needs another value.").wait_for()

    page.get_by_role("textbox", name="Note").fill("checked by phone")
    page.reload()  # the draft is kept
    note = page.get_by_role("textbox", name="Note")
    service.until(lambda: note.input_value() == "checked by phone")
    tax_number.fill("DE12345678")
    tax_number.blur()
    page.get_by_role("button", name="Send answer").click()
    page.get_by_text("Noor Haddad answered this").first.wait_for()
    service.until(lambda: status(team, execution) == "completed")
    output = team.api(team.author).get(f"/executions/{execution}").json()["globalContext"]["tax"]
    assert output["taxNumber"] == "DE12345678"


def pending(team: Team) -> list[JSONObject]:
    found: list[JSONObject] = team.api(team.approver).get("/approvals/pending").json()["approvals"]
    return found


# The live hint is held back, so that a page still shows an open question when it no longer is.
DEAF = """() => {
    const fetched = AF.fragment;
    AF.fragment = path => path.startsWith("/inbox/rows") ? new Promise(() => {}) : fetched(path);
}"""


def test_who_comes_second_is_told_who_decided(service: Service, team: Team, visit: Visit) -> None:
    execution = team.start(approval("Extend the budget by €25.00?"))
    (asked,) = service.until(lambda: pending(team))
    page = visit(team.approver, f"/inbox/{asked['approvalId']}/")
    page.get_by_role("button", name="Approve").wait_for()
    page.evaluate(DEAF)

    body = {"approved": False, "comments": "Not this month"}
    reply = team.api(team.second_approver).post(f"/approvals/{asked['approvalId']}/respond", json=body)
    assert reply.status_code == 200, reply.text
    page.get_by_role("button", name="Approve").click()

    outcome = page.locator("#outcome")
    outcome.get_by_text("Tom Berg rejected this").wait_for()
    outcome.get_by_text("Your answer came later and was not saved.").wait_for()
    assert page.get_by_role("button", name="Approve").count() == 0
    service.until(lambda: status(team, execution) == "failed")


def test_what_was_typed_goes_to_the_question_that_is_asked_instead(
    service: Service, team: Team, visit: Visit
) -> None:
    """What it shows is edited twice: once seen live, once only when the answer is refused."""
    price: JSONObject = {"blockId": "price", "agentId": "builtin.echo", "input": {"sum": 100}}
    execution = team.start(price, {**TAX_FORM, "dependencies": ["price"]})
    (first,) = service.until(lambda: pending(team))
    page = visit(team.approver, f"/inbox/{first['approvalId']}/")
    page.locator("#live:not(.off)").wait_for()
    page.get_by_role("textbox", name="Tax number").fill("DE12345678")
    page.keyboard.press("Tab")
    page.fill("#comment", "half a sentence")
    operator = team.api(team.author)
    assert operator.post(f"/executions/{execution}/pause", json={}).status_code == 200

    def asked_instead(of: JSONObject, **price: int) -> JSONObject:
        reply = operator.patch(f"/executions/{execution}/context", json={"outputs": {"price": price}})
        assert reply.status_code == 200, reply.text
        (asked,) = pending(team)
        assert asked["supersedes"] == of["approvalId"]
        return asked

    def comes(asked: JSONObject, words: str) -> None:
        page.wait_for_url(f"**/inbox/{asked['approvalId']}/")
        page.locator("#trouble", has_text=words).get_by_text("Your text was kept").wait_for()
        assert page.get_by_role("textbox", name="Tax number").input_value() == "DE12345678"
        assert page.input_value("#comment") == "half a sentence"

    second = asked_instead(first, sum=90)
    comes(second, "so it is asked again")
    page.evaluate(DEAF)
    third = asked_instead(second, sum=80)
    page.get_by_role("button", name="Send answer").click()
    comes(third, "Not saved.")
    assert violations(page) == []
    page.goto(f"/inbox/{second['approvalId']}/")
    page.get_by_role("link", name="Answer what is asked now").click()
    page.wait_for_url(f"**/inbox/{third['approvalId']}/")


def test_a_decision_elsewhere_closes_the_open_question_live(
    service: Service, team: Team, visit: Visit
) -> None:
    team.start(approval("Give audit read access?"))
    (asked,) = service.until(lambda: pending(team))
    page = visit(team.approver, "/inbox/")
    page.get_by_role("button", name="Approve").wait_for()
    page.locator("#live:not(.off)").wait_for()
    team.api(team.second_approver).post(f"/approvals/{asked['approvalId']}/respond", json={"approved": True})
    page.locator("#outcome").get_by_text("Tom Berg approved this").wait_for()


def test_a_step_that_cannot_go_on_offers_four_ways(service: Service, team: Team, visit: Visit) -> None:
    execution = team.start(
        {
            "blockId": "import",
            "name": "Import invoices",
            "agentId": "ledger",
            "retryPolicy": {"maxRetries": 0},
        },
        {"blockId": "report", "name": "Report", "agentId": "ledger", "dependencies": ["import"]},
        failures={"import": [{"kind": "transient", "times": 9}]},
    )
    service.until(lambda: pending(team))
    page = visit(team.approver, "/inbox/")
    for choice in ("Run again", "Done with this output", "Skip", "Fail"):
        assert page.locator("[data-fix]", has_text=choice).count() == 1
    page.locator("[data-fix=complete]").click()
    page.locator("#fix-output textarea").fill("{not json")
    page.locator("#apply").click()
    page.get_by_text("This is not JSON").wait_for()
    page.locator("#fix-output textarea").fill('{"imported": 46}')
    page.locator("#apply").click()
    page.get_by_text("Noor Haddad answered this").first.wait_for()
    service.until(lambda: status(team, execution) == "completed")


def test_a_stuck_step_is_changed_on_a_phone_and_runs_again(
    service: Service, team: Team, visit: Visit
) -> None:
    grant(user=team.second_approver, role=Role.OPERATOR, workspace=team.workspace)
    execution = team.start(
        {
            "blockId": "import",
            "agentId": "ledger",
            "input": {"invoice": "INV-1", "amount": 640},
            "configuration": {"book": "main"},
            "retryPolicy": {"maxRetries": 0},
        },
        failures={"import": [{"kind": "configuration", "times": 1}]},
    )
    service.until(lambda: pending(team))
    page = visit(team.second_approver, f"/inbox/{pending(team)[0]['approvalId']}/", screen=PHONE)
    page.get_by_role("button", name="Change it and run again").click()
    page.locator("#apply").click()
    page.locator("#trouble", has_text="Nothing is changed yet").wait_for()
    page.get_by_role("textbox", name="invoice").fill("INV-2")
    page.locator("#change-configuration textarea").fill('{"book": "side"}')
    assert violations(page) == []
    page.locator("#apply").click()
    page.get_by_text("Tom Berg answered this").first.wait_for()
    service.until(lambda: status(team, execution) == "completed")
    changed = {"input": {"invoice": "INV-2", "amount": 640}, "configuration": {"book": "side"}}
    assert Execution.objects.get(pk=execution).patches == {"import": changed}


def test_a_question_about_a_budget_shows_what_was_spent_and_its_ways_on(team: Team, visit: Visit) -> None:
    asked = ApprovalFactory.create(
        workspace=team.workspace,
        kind="budget",
        request={
            "title": "Answer waits: the budget of writer for 2026-11-21 is used up (10.2 of 10 EUR)",
            "description": "Extend it by what you name, or by as much once more; or stop.",
            "facts": {"allowed": {"cost": 10}, "spent": {"cost": 10.2}, "spentOn": {}},
            "budget": {
                "scope": "workspace",
                "agentId": None,
                "currency": "EUR",
                "usual": {"cost": 10},
                "rows": [
                    {"name": "Complaints: Answer", "agentId": "writer", "tokens": 81000, "cost": 9.7},
                    {"name": "Others", "tokens": 3100, "cost": 0.5},
                ],
                "agents": [
                    {
                        "agentId": "frugal",
                        "name": "Frugal writer",
                        "price": 0.02,
                        "insteadOf": 0.2,
                        "currency": "EUR",
                    }
                ],
            },
        },
        input_schema={
            "properties": {
                "action": {"enum": ["extend", "cheaper", "stop"]},
                "cost": {"type": "number"},
                "agentId": {"enum": ["frugal"]},
            }
        },
    )
    page = visit(team.approver, f"/inbox/{asked.pk}/")
    table = page.get_by_role("region", name="What it was spent on")
    assert table.get_by_role("row", name="Complaints: Answer writer 81,000 tokens 9.70 EUR").count() == 1
    page.locator("[data-fix=extend]").click()
    page.get_by_label("More EUR").fill("5")
    assert violations(page) == []
    page.locator("[data-fix=stop]").click()
    assert page.get_by_label("More EUR").is_hidden()
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("[data-fix=cheaper]").click()
    page.get_by_role("button", name="Go on with Frugal writer").last.click()
    page.get_by_text("Noor Haddad answered this").first.wait_for()
    votes = team.api(team.approver).get(f"/approvals/{asked.pk}").json()["votes"]
    assert [vote["response"] for vote in votes] == [{"action": "cheaper", "agentId": "frugal", "cost": 5}]


def test_a_reader_who_is_not_asked_sees_no_buttons(service: Service, team: Team, visit: Visit) -> None:
    team.start(approval("Pay?"))
    (asked,) = service.until(lambda: pending(team))
    page = visit(team.author, f"/inbox/{asked['approvalId']}/")
    page.get_by_text("it takes an approver of the workspace to decide").wait_for()
    assert page.get_by_role("button", name="Approve").count() == 0


def test_the_inbox_is_worked_by_keys_and_open_to_everybody(
    service: Service, team: Team, visit: Visit
) -> None:
    """The keys one after the other, and axe-core's look (WCAG 2.2 AA) at each state on the way."""
    team.start(approval("Pay back €640.00?"))
    service.until(lambda: pending(team))
    team.start(approval("Deploy to production?"))
    service.until(lambda: len(pending(team)) == 2)
    page = visit(team.approver, "/inbox/")
    page.locator("#live:not(.off)").wait_for()
    heading = page.locator("#question")
    heading.get_by_text("Pay back").wait_for()
    assert violations(page) == []

    page.keyboard.press("j")
    heading.get_by_text("Deploy").wait_for()
    page.keyboard.press("k")
    heading.get_by_text("Pay back").wait_for()
    page.keyboard.press("?")
    page.get_by_role("dialog").get_by_text("Next and previous question").wait_for()
    assert violations(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    page.locator("#reason").wait_for()
    assert violations(page) == []
    page.keyboard.type("jk?")  # letters of a text are no keys
    assert page.locator("#reason").input_value() == "jk?"
    page.get_by_role("button", name="Cancel").click()
    page.click("#filters")
    page.emulate_media(color_scheme="dark")
    assert violations(page) == []

    page.keyboard.press("/")
    page.keyboard.type("deploy")
    service.until(lambda: page.locator(".item").count() == 1)
    heading.get_by_text("Pay back").wait_for()  # what is open stays
    page.locator(".item").focus()
    page.keyboard.press("o")
    heading.get_by_text("Deploy").wait_for()
    page.keyboard.press("a")
    page.keyboard.press("Enter")
    page.get_by_text("Noor Haddad approved this").first.wait_for()

    phone = visit(team.second_approver, "/inbox/", screen=PHONE)
    phone.locator("#live:not(.off)").wait_for()
    assert violations(phone) == []
    phone.get_by_role("link", name="Pay back").click()
    phone.get_by_role("heading", name="Pay back").wait_for()
    assert violations(phone) == []


def test_two_people_at_once_see_each_other(service: Service, team: Team, visit: Visit) -> None:
    """One at a desk, one on a phone: who takes, decides or comes late is seen by the other as it happens."""
    team.start(approval("Pay back €640.00?"))
    service.until(lambda: pending(team))
    team.start(approval("Deploy to production?"))
    service.until(lambda: len(pending(team)) == 2)
    desk = visit(team.approver, "/inbox/")
    phone = visit(team.second_approver, "/inbox/", screen=PHONE)
    for page in (desk, phone):
        page.locator("#live:not(.off)").wait_for()
    desk.locator("#question").get_by_text("Pay back").wait_for()
    desk.fill("#comment", "half a sentence")

    phone.get_by_role("link", name="Pay back").click()
    phone.locator("#more-actions summary").click()
    phone.get_by_role("button", name="Take it").click()
    phone.locator(".chip", has_text="Taken by you").wait_for()
    desk.get_by_text("Tom Berg is at it").wait_for()
    desk.locator(".item", has_text="taken by Tom Berg").wait_for()
    assert desk.input_value("#comment") == "half a sentence"
    assert violations(desk) == []
    desk.get_by_role("button", name="Approve").click()
    desk.locator("#trouble", has_text="Tom Berg has claimed this").wait_for()
    desk.get_by_role("button", name="Only say it").click()
    phone.locator(".hist", has_text="Noor Haddad wrote").get_by_text("half a sentence").wait_for()

    phone.get_by_role("button", name="Approve").click()
    desk.locator("#outcome").get_by_text("Tom Berg approved this").wait_for()
    desk.locator(".item.gone", has_text="Pay back").wait_for()
    assert desk.evaluate("document.documentElement.scrollWidth") <= 1440
    assert phone.evaluate("document.documentElement.scrollWidth") <= 390


def test_work_is_sent_back_with_a_comment_so_often_as_its_author_allows(
    service: Service, team: Team, visit: Visit
) -> None:
    """Before it is sent the page says what runs again; on a phone the button is behind the dots."""
    draft: JSONObject = {"blockId": "draft", "name": "Write draft", "agentId": "builtin.echo"}
    gate: JSONObject = {**approval("Send the draft?"), "dependencies": ["draft"]}
    gate["humanInLoop"] |= {"maxRework": 1}
    execution = team.start(
        {"blockId": "facts", "name": "Find facts"}, {**draft, "dependencies": ["facts"]}, gate
    )
    (asked,) = service.until(lambda: pending(team))
    page = visit(team.approver, f"/inbox/{asked['approvalId']}/")
    page.get_by_role("heading", name="If you send it back").wait_for()
    page.keyboard.press("b")
    page.locator("#again", has_text="Runs again: Write draft. Then you are asked again.").wait_for()
    page.get_by_label("Find facts").check()
    page.locator("#again", has_text="Write draft, Find facts").wait_for()
    page.get_by_label("Find facts").uncheck()
    assert violations(page) == []
    page.get_by_role("button", name="Send back").click()  # without a comment nothing is sent
    assert page.locator("#return-why:invalid").count() == 1
    page.fill("#return-why", "Shorter, please.")
    page.get_by_role("button", name="Send back").click()
    page.locator("#outcome").get_by_text("Noor Haddad sent this back").wait_for()

    (again,) = service.until(lambda: pending(team))
    assert again["supersedes"] == asked["approvalId"]
    phone = visit(team.second_approver, f"/inbox/{again['approvalId']}/", screen=PHONE)
    phone.get_by_text("It was sent back 1 of 1 times: no more").wait_for()
    phone.locator("#more-actions summary").click()
    phone.get_by_role("button", name="Send it back").click()
    phone.locator("#trouble", has_text="Approve it, or reject it.").wait_for()
    phone.get_by_role("button", name="Approve").click()
    phone.locator("#outcome").get_by_text("Tom Berg approved this").wait_for()
    service.until(lambda: status(team, execution) == "completed")


# The page is one that nobody looks at, and remembers the notices it showed.
IN_THE_BACKGROUND = """
    Object.defineProperty(document, "hidden", { get: () => true });
    window.told = [];
    window.Notification = class extends Notification {
        constructor(title, options) { super(title, options); told.push(`${title} | ${options.body}`); }
    };
"""


def test_the_browser_shows_each_ticked_topic_while_nobody_looks(
    service: Service, team: Team, visit: Visit
) -> None:
    page = visit(team.approver, "/inbox/")
    page.context.grant_permissions(["notifications"])
    page.add_init_script(IN_THE_BACKGROUND)
    page.reload()
    page.locator("#live:not(.off)").wait_for()
    page.get_by_role("button", name="Notify me").click()
    page.get_by_role("button", name="Notices on").wait_for()

    team.start(approval("Pay back €640.00?"))
    service.until(lambda: "Pay back €640.00? | Pay refund" in page.evaluate("told"))
    (asked,) = pending(team)
    address = f"/approvals/{asked['approvalId']}"
    other = team.api(team.second_approver)
    assert other.post(f"{address}/comments", json={"text": "Is it in stock?"}).status_code == 201
    service.until(
        lambda: "New comment: Pay back €640.00? | Tom Berg: Is it in stock?" in page.evaluate("told")
    )
    assert other.post(f"{address}/respond", json={"approved": True}).status_code == 200
    service.until(lambda: "Decided: Pay back €640.00? | Tom Berg approved this." in page.evaluate("told"))
    assert page.evaluate("told.length") == 3


class Line:
    """The live connection of a page, to be cut and mended."""

    def __init__(self, page: Any) -> None:
        self._cut = False
        self._sockets: list[Any] = []
        page.route_web_socket("**/ws/approvals*", self._connect)
        page.reload()

    def _connect(self, socket: Any) -> None:
        if self._cut:
            socket.close()
        else:
            socket.connect_to_server()
            self._sockets.append(socket)

    def cut(self) -> None:
        self._cut = True
        self._sockets.pop().close()

    def mend(self) -> None:
        self._cut = False


def test_questions_are_changed_given_away_and_decided_in_a_table(
    service: Service, team: Team, visit: Visit
) -> None:
    """Approving with changes while the line is cut, delegating, a batch; axe-core where each is done."""
    schema = {"type": "object", "properties": {"amount": {"type": "number", "title": "Amount"}}}
    tool = ApprovalFactory.create(
        workspace=team.workspace,
        kind="tool",
        request={"title": "May it pay?", "editable": {"amount": 640}},
        input_schema=schema,
    )
    page = visit(team.approver, f"/inbox/{tool.pk}/")
    line = Line(page)
    page.locator("#live:not(.off)").wait_for()
    line.cut()
    page.locator("#live.off", has_text="Reconnecting").wait_for()
    page.locator("#off", has_text="Live updates are off.").wait_for()
    page.get_by_role("textbox", name="Amount").fill("500")
    page.keyboard.press("Tab")
    changed = page.get_by_role("button", name="Approve with changes")
    changed.wait_for()
    assert violations(page) == []
    changed.click()
    page.locator("#outcome").get_by_text("Noor Haddad").wait_for()
    votes = team.api(team.approver).get(f"/approvals/{tool.pk}").json()["votes"]
    assert [vote["edits"] for vote in votes] == [[{"op": "replace", "path": "/amount", "value": 500}]]

    team.start(approval("Deploy to production?"))
    service.until(lambda: pending(team))
    line.mend()
    page.locator("#live:not(.off)").wait_for()
    page.locator("#off").wait_for(state="hidden")
    page.get_by_role("button", name="1 new").click()  # it came while the line was cut
    page.get_by_role("link", name="Deploy to production?").click()
    page.locator("#more-actions summary").click()
    page.get_by_role("button", name="Give it to somebody").click()
    page.select_option("#give-to", team.second_approver.username)
    page.fill("#give-why", "It is your service")
    page.get_by_role("button", name="Give", exact=True).click()
    page.get_by_text("You may read this").wait_for()
    assert pending(team) == []

    first = team.start(approval("Pay back?"))
    template = team.api(team.author).get(f"/executions/{first}").json()["templateId"]
    again = {"templateId": template, "workspaceId": str(team.workspace.pk), "simulation": {}}
    assert team.api(team.author).post("/executions", json=again).status_code == 201
    service.until(lambda: len(pending(team)) == 2)
    page.goto(f"/inbox/{pending(team)[0]['approvalId']}/alike")
    page.get_by_label("Choose all").check()
    page.get_by_role("button", name="Approve 2").click()
    assert violations(page) == []
    page.get_by_role("button", name="Confirm: approve 2").click()
    page.locator("#say", has_text="2 approved").wait_for()
    assert pending(team) == []
    one_in_three_is_inspected(service, team, page)


def one_in_three_is_inspected(service: Service, team: Team, page: Any) -> None:
    """Of successive questions one is drawn; approved as it is, the clock releases the others."""
    runs = [asking_execution(team.workspace, "ask") for _ in range(3)]
    for run in runs[1:]:
        run.template_version = runs[0].template_version
        run.save(update_fields=["template_version"])
    asked = [ApprovalFactory.create(execution=run, sample=1, sample_of=3) for run in runs]
    page.goto(f"/inbox/{asked[0].pk}/alike")
    page.get_by_text("1 of 3 are inspected, drawn by chance.").wait_for()
    page.set_viewport_size(PHONE)
    width = "[document.documentElement, document.querySelector('.scroll-x')].map(e => e.scrollWidth)"
    assert max(page.evaluate(width)) <= PHONE["width"]
    assert violations(page) == []
    page.get_by_label("Choose all that are inspected").check()
    page.get_by_role("button", name="Approve 1").click()
    page.get_by_role("button", name="Confirm: approve 1").click()
    service.until(lambda: pending(team) == [])
    released = Approval.objects.filter(pk__in=[each.pk for each in asked], released=True)
    assert released.count() == 2
    page.goto(f"/inbox/{released[0].pk}/")
    page.locator("#outcome", has_text="Released by sample: 1 of 3 were inspected").wait_for()


def test_choosing_and_a_link_s_page_are_open_to_everybody(team: Team, visit: Visit) -> None:
    question = ApprovalFactory.create(workspace=team.workspace)
    page = visit(team.approver, "/notifications/")
    assert violations(page) == []
    page.goto(link_to(question, team.approver))
    page.get_by_role("button", name="Approve").wait_for()
    assert violations(page) == []


def link_to(question: Approval, user: User) -> str:
    """The address that a mail would have."""
    delivery = Delivery.objects.create(
        workspace_id=question.workspace_id,
        approval=question,
        event_id=1,
        event_at=question.requested_at,
        topic="requested",
        channel="email",
        user=user,
        state="sent",
        next_at=question.requested_at,
    )
    link = SignedLink.objects.create(
        delivery=delivery,
        approval=question,
        user=user,
        action="approve",
        content_hash=question.content_hash,
        expires_at=question.respond_by,
    )
    return f"/decide/{links.token_of(link)}/"


@pytest.mark.parametrize("width", [320, 390, 768, 1440])
def test_no_page_scrolls_sideways(service: Service, team: Team, visit: Visit, width: int) -> None:
    execution = team.start(approval("Pay back €640.00 for order 48213 and all that came after it?"))
    (asked,) = service.until(lambda: pending(team))
    page = visit(team.approver, "/inbox/", screen={"width": width, "height": 800})
    question = f"/inbox/{asked['approvalId']}/"
    for path in ("/inbox/", question, f"/executions/{execution}/", "/executions/", "/templates/"):
        page.goto(path)
        page.wait_for_load_state("load")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
