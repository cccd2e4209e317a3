"""The circuit that all workers share, in a real Valkey."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
import redis
from django.test import Client
from django.urls import reverse
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis.backoff import NoBackoff
from redis.retry import Retry

from agentflow.agents import circuit, registry
from agentflow.agents.calls import CIRCUIT_OPEN, Completed
from agentflow.agents.circuit_script import SCRIPT
from agentflow.agents.matching import Requirements
from agentflow.agents.models import Agent, ToolType
from agentflow.agents.profile import CircuitRules
from agentflow.agents.selection import choose
from agentflow.governance.models import AuditEntry, Workspace
from agentflow.governance.roles import Role
from tests.agents.circuit_model import CircuitModel
from tests.agents.conftest import Invoke, failure_of
from tests.factories.agents import AgentFactory
from tests.factories.governance import UserFactory, client_of, member
from tests.servers import HttpServer
from tests.waiting import PATIENCE_S, until

RULES = CircuitRules(
    window_seconds=10,
    minimum_calls=4,
    slow_ms=100,
    slow_rate=0.75,
    cooldown_seconds=2,
    cooldown_max_seconds=9,
)
BEGIN = 1_700_000_000_000

Steps = list[tuple[str, int, int, int]]
verdicts = st.sampled_from(["ok", "ok", "bad", "gone", "none"])
step = st.tuples(
    st.sampled_from(["allow", "ok", "ok", "bad", "gone", "none", "reset"]),
    st.sampled_from([0, 1, 50, 400, 1000, 2000, 5000, 20_000]),  # ms since the step before
    st.sampled_from([1, 99, 100, 3000]),  # how long the call took
    st.sampled_from([0, 0, 30, 1000]),  # how long ago it ended
)


@hypothesis_settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(step, max_size=40))
@example([("gone", 1, 1, 0), ("gone", 1, 1, 0), ("allow", 2000, 1, 0), ("ok", 50, 50, 0), ("allow", 0, 1, 0)])
@example([("gone", 1, 1, 0)] * 2 + [("allow", 2000, 1, 0), ("none", 1, 1, 0), ("allow", 0, 1, 0)])
@example([("bad", 1, 1, 0)] * 4 + [("allow", 2000, 1, 0), ("bad", 5000, 1, 0), ("allow", 5000, 1, 0)])
def test_the_script_does_what_the_model_says(steps: Steps) -> None:
    client = circuit._client()
    model, name, now = CircuitModel(RULES), f"test:{uuid4()}", BEGIN
    for what, later, ms, ended in steps:
        now += later
        told: list[str | int] = []
        if what == "allow":
            expected, op = model.allow(now), "allow"
        elif what == "reset":
            model.reset(now)
            expected, op = True, "reset"
        else:
            model.record(now, what, ms, ms + ended)
            expected, op, told = True, "record", [what, ms, ms + ended]
        answer = client.eval(SCRIPT, 1, name, op, now, *circuit._rules(RULES), *told)
        state, allowed = circuit._read(answer)
        assert (state.state, allowed, state.opens) == (model.state(now), expected, model.opens)
        stored = client.get(name)
        assert stored is None or circuit._seen(json.loads(stored), RULES, now) == state


@pytest.fixture(autouse=True)
def _known_to_nobody() -> Iterator[None]:
    yield
    circuit.circuits._known.clear()
    circuit.circuits._away_until = 0.0


@pytest.fixture
def agent(workspace: Workspace, server: HttpServer) -> Callable[..., str]:
    def made(path: str = "/", **measures: object) -> str:
        row = AgentFactory.create(
            workspace=workspace,
            tool_type=ToolType.API,
            configuration={"url": server.url(path)},
            measures={"circuit": measures} if measures else {},
        )
        return str(row.agent_id)

    return made


def state_of(workspace: Workspace, agent_id: str) -> str:
    assert circuit.flush(PATIENCE_S)
    circuit.circuits._known.clear()
    return circuit.states(workspace.pk, [agent_id])[agent_id].state


def fail(workspace: Workspace, agent_id: str, times: int = 1) -> None:
    for _ in range(times):
        circuit.record(workspace.pk, agent_id, False, 1.0, unreachable=True)


def test_two_refused_connections_open_it_and_the_next_call_is_not_made(
    call: Invoke, workspace: Workspace, server: HttpServer
) -> None:
    nobody = AgentFactory.create(
        workspace=workspace, tool_type=ToolType.API, configuration={"url": "http://127.0.0.1:9/"}
    )
    workspace.egress_allow = ["127.0.0.1:9"]
    workspace.save()
    registry.forget()
    for _ in range(2):
        assert failure_of(call(nobody.agent_id)).code == "connect_failed"
    assert state_of(workspace, nobody.agent_id) == "open"
    refused = failure_of(call(nobody.agent_id))
    assert refused.code == CIRCUIT_OPEN
    assert refused.retry_after_s is not None
    assert 0 < refused.retry_after_s <= 5
    assert refused.evidence["why"] == "unreachable"


def test_what_was_called_wrongly_or_stopped_by_its_caller_does_not_count(
    call: Invoke, workspace: Workspace, server: HttpServer, agent: Callable[..., str]
) -> None:
    server.on("/", lambda exchange: exchange.reply(status=404))
    named = agent(minimumCalls=1)
    for _ in range(3):
        assert failure_of(call(named)).code == "http_404"
    assert state_of(workspace, named) == "closed"
    server.on("/", lambda exchange: exchange.reply(status=500))
    assert failure_of(call(named)).code == "http_500"
    assert state_of(workspace, named) == "open"


def test_a_half_open_circuit_lets_one_call_through_whoever_asks(
    workspace: Workspace, agent: Callable[..., str]
) -> None:
    named = agent(cooldownSeconds=0.1, probeSeconds=1)
    fail(workspace, named, 2)
    until(lambda: state_of(workspace, named) == "half_open", why="the cool-down to end")
    with ThreadPoolExecutor(8) as pool:
        rules = CircuitRules(cooldown_seconds=0.1, probe_seconds=1)
        held = list(pool.map(lambda _: circuit.enter(workspace.pk, named, rules), range(8)))
    assert held.count(None) == 1
    # Who took the probe has died: after its lease another gets it, and closes the circuit.
    until(lambda: circuit.allow(workspace.pk, named), why="the lease of the probe to end")
    circuit.record(workspace.pk, named, True, 0.0)
    assert state_of(workspace, named) == "closed"


def test_another_process_sees_it_open_and_one_that_resets_it(
    workspace: Workspace, agent: Callable[..., str]
) -> None:
    named, rules = agent(cooldownSeconds=60), CircuitRules(cooldown_seconds=60)
    fail(workspace, named, 2)
    assert state_of(workspace, named) == "open"

    def in_child(found: multiprocessing.Queue[str]) -> None:
        held = circuit.enter(workspace.pk, named, rules)
        found.put(held.why if held else "")
        circuit.circuits.ask("reset", [((workspace.pk, named), rules)])

    context = multiprocessing.get_context("fork")
    found: multiprocessing.Queue[str] = context.Queue()
    child = context.Process(target=in_child, args=(found,))
    child.start()
    assert found.get(timeout=PATIENCE_S) == "unreachable"
    child.join(PATIENCE_S)
    until(lambda: circuit.enter(workspace.pk, named, rules) is None, why="the other's reset to arrive")


def test_without_valkey_every_circuit_is_closed_and_no_call_waits(
    call: Invoke, workspace: Workspace, server: HttpServer, agent: Callable[..., str]
) -> None:
    named = agent()
    fail(workspace, named, 2)
    assert state_of(workspace, named) == "open"
    circuit.circuits._known.clear()
    lost = redis.Redis(unix_socket_path="/nonexistent/valkey.sock", retry=Retry(NoBackoff(), 0))
    kept = circuit._client
    circuit._client = lambda: lost  # type: ignore[assignment]
    try:
        server.on("/", lambda exchange: exchange.json({"n": 1}))
        assert isinstance(call(named), Completed)
        assert circuit.allow(workspace.pk, named)
        assert circuit.states(workspace.pk, [named])[named].closed
        assert not circuit.reset(workspace.pk, named)
    finally:
        circuit._client = kept


def test_its_state_is_shown_and_reset_by_who_manages_agents_and_leaves_an_entry(
    workspace: Workspace, agent: Callable[..., str]
) -> None:
    named = agent(cooldownSeconds=60)
    fail(workspace, named, 2)
    assert circuit.flush(PATIENCE_S)
    path = f"/api/v1/agents/{Agent.objects.get(agent_id=named).pk}"
    operator, viewer = (client_of(member(workspace, role)) for role in (Role.OPERATOR, Role.VIEWER))
    shown = operator.get(path).json()["circuit"]
    assert (shown["state"], shown["why"], shown["opens"]) == ("open", "unreachable", 1)
    assert 0 < shown["retrySeconds"] <= 60
    assert viewer.post(f"{path}/reset-circuit").status_code == 403
    assert client_of(UserFactory.create()).post(f"{path}/reset-circuit").status_code == 404
    assert operator.post(f"{path}/reset-circuit").json()["state"] == "closed"
    assert operator.post(f"{path}/reset-circuit").status_code == 200
    assert operator.get(path).json()["circuit"]["state"] == "closed"
    entries = AuditEntry.objects.filter(action="agent.reset_circuit").order_by("pk")
    assert [entry.detail["was"] for entry in entries] == ["open", "closed"]


def test_the_admin_shows_filters_and_resets_circuits(
    workspace: Workspace, agent: Callable[..., str], client: Client
) -> None:
    well, ill = agent(cooldownSeconds=60), agent(cooldownSeconds=60)
    fail(workspace, ill, 2)
    assert circuit.flush(PATIENCE_S)
    client.force_login(UserFactory.create(is_staff=True, is_superuser=True))
    path = reverse("admin:agents_agent_changelist")
    page = client.get(path, {"circuit": "open"}).content.decode()
    assert ill in page
    assert f">{well}<" not in page
    row = Agent.objects.get(agent_id=ill)
    client.post(path, {"action": "reset_circuit", "_selected_action": [str(row.pk)]})
    assert state_of(workspace, ill) == "closed"
    assert AuditEntry.objects.filter(action="agent.reset_circuit").count() == 1


@pytest.mark.parametrize(
    ("measures", "pointer"),
    [
        ({"circuit": {"failureRate": 2}}, "/measures/circuit/failureRate"),
        ({"circuit": {"windowSeconds": 0}}, "/measures/circuit/windowSeconds"),
        ({"circuit": {"speed": 1}}, "/measures/circuit/speed"),
        ({"circuit": []}, "/measures/circuit"),
        ({"outsideWeight": -1}, "/measures/outsideWeight"),
    ],
)
def test_bad_thresholds_are_refused_with_their_place(
    workspace: Workspace, measures: dict[str, object], pointer: str
) -> None:
    body = {"agentId": "a", "name": "A", "toolType": "API", "configuration": {"url": "https://a.example/"}}
    operator = client_of(member(workspace, Role.OPERATOR))
    refused = operator.post("/api/v1/agents", {**body, "measures": measures}, format="json")
    assert refused.status_code == 400, refused.content
    assert [issue["pointer"] for issue in refused.json()["issues"]] == [pointer]


def test_one_whose_circuit_is_open_is_passed_over_for_another(workspace: Workspace) -> None:
    reads = [{"name": "orders.read"}]
    for name in ("first", "second"):
        AgentFactory.create(workspace=workspace, agent_id=name, capabilities=reads)
    registry.forget()
    asked = Requirements(capabilities=("orders.read",))
    best = choose(workspace.pk, asked).ranking.best
    assert best is not None
    assert best.agent_id == "first"
    fail(workspace, "first", 2)
    assert state_of(workspace, "first") == "open"
    ranking = choose(workspace.pk, asked).ranking
    assert [each.agent_id for each in ranking.fit] == ["second"]
    assert ranking.left_out == (("first", "circuit_open"),)
