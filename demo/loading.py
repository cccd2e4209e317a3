"""Loads the demo workspace: once, whole or not at all, and again where a start was cut short.

The rows are one transaction, the execution among them.  `demo.json` follows; if the process dies in
between, the next load finds the rows, gives the users new passwords and writes it then.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from django.conf import settings
from django.db import connection, transaction

from agentflow.agents.models import Agent, PolicyKind
from agentflow.agents.services import policing, registration, scripts, sources
from agentflow.agents.services.scripts import ScriptFields
from agentflow.governance import audit
from agentflow.governance.models import User, Workspace
from agentflow.governance.services.workspaces import create_workspace, grant
from agentflow.types import JSONObject
from agentflow.workflow.definition import Definition, content_hash
from agentflow.workflow.parsing import parse
from executions.models import Execution
from executions.services import admission
from templates_app.models import Template
from templates_app.services import authoring

from . import workspace as demo

LOCK = 0x64656D6F  # any number: two loads at once take turns


def load(*, home: Path, base_url: str, port: int) -> bool:
    """Bring the demo to where this start wants it.  True: it was not there before.

    `port` is where the demo's shop listens on 127.0.0.1.
    """
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        workspace = Workspace.objects.filter(slug=demo.SLUG).first()
        fresh = workspace is None
        workspace = workspace or _create(port)
        if not fresh:
            _move_shop(workspace, port)
            _choose_writer(workspace)
        path = home / "demo.json"
        kept = _kept(path, workspace)
        users = kept["users"] if kept else _new_passwords()
    _write(path, _facts(workspace, base_url, users))
    return fresh


# -- the first time ------------------------------------------------------------


def _create(port: int) -> Workspace:
    people = {person.key: _person(person) for person in demo.PEOPLE}
    admin = people["admin"]
    workspace = create_workspace(slug=demo.SLUG, name=demo.NAME, by=admin, egress_allow=[_shop_host(port)])
    for person in demo.PEOPLE:
        grant(user=people[person.key], role=person.role, workspace=workspace, by=admin)
    for name, description in demo.SCRIPTS.items():
        scripts.register_script(
            by=admin,
            workspace_id=workspace.pk,
            name=name,
            fields=ScriptFields(source=demo.script_source(name), timeout_s=10),
            description=description,
        )
    for fields in demo.shop_agents(_shop_url(port)):
        registration.register_agent(by=admin, workspace_id=workspace.pk, fields=fields)
    templates = {}
    for name in demo.DEFINITIONS:
        version = authoring.create_template(
            workspace_id=workspace.pk, by=people["author"], definition=_definition(name)
        )
        templates[name] = version.template_id
        if name == demo.DEFINITIONS[0]:
            for fields in demo.other_agents(tell_template_id=str(version.template_id)):
                registration.register_agent(by=admin, workspace_id=workspace.pk, fields=fields)
    sources.add(by=admin, workspace_id=workspace.pk, fields=demo.source())
    policing.set_policy(
        by=admin,
        workspace_id=workspace.pk,
        agent_id=demo.PREFERRED,
        kind=PolicyKind.PREFER,
        reason=demo.PREFERRED_WHY,
    )
    _start(workspace, people["operator"], templates[demo.STARTED], demo.STARTED_WITH)
    for parcels in demo.QUOTED_AT_START:
        _start(workspace, people["operator"], templates[demo.QUOTES], parcels)
    return workspace


def _start(workspace: Workspace, by: User, template_id: UUID, given: JSONObject) -> None:
    admission.start(
        by=by,
        request=admission.StartRequest(
            template_id=template_id, workspace_id=workspace.pk, version=None, input=given, simulation=None
        ),
    )


def _person(person: demo.Person) -> User:
    """A new user without a password; another name is taken where somebody bears theirs."""
    username = person.key
    while User.objects.filter(username=username).exists():
        username = f"demo-{username}"
    user = User(
        username=username,
        email=person.email,
        first_name=person.first_name,
        last_name=person.last_name,
        is_staff=person.staff,
        is_superuser=person.key == "admin",
    )
    user.set_unusable_password()
    user.save()
    return user


def _definition(name: str, *, llm: bool | None = None) -> Definition:
    return parse(demo.definition(name, llm=_has_llm() if llm is None else llm))


def _has_llm() -> bool:
    return bool(settings.AGENTFLOW_LLM_BASE_URL and settings.AGENTFLOW_LLM_API_KEY)


def _shop_host(port: int) -> str:
    return f"127.0.0.1:{port}"


def _shop_url(port: int) -> str:
    return f"http://{_shop_host(port)}"


# -- later times ----------------------------------------------------------------


def _move_shop(workspace: Workspace, port: int) -> None:
    """Follow the shop to another port; agents that somebody changed or removed are left alone."""
    left: set[str] = set()
    for fields in demo.shop_agents(_shop_url(port)):
        url = fields.configuration["url"]
        agent = (
            Agent.objects.select_for_update().filter(workspace=workspace, agent_id=fields.agent_id).first()
        )
        if agent is not None and _is_old_address(agent.configuration.get("url"), url):
            left.add(urlsplit(agent.configuration["url"]).netloc)
            agent.configuration["url"] = url
            agent.save(update_fields=["configuration", "updated_at"])
    if not left:
        return
    kept = [entry for entry in workspace.egress_allow if entry not in {*left, _shop_host(port)}]
    workspace.egress_allow = [*kept, _shop_host(port)]
    workspace.save(update_fields=["egress_allow", "updated_at"])
    audit.record(
        action="workspace.egress",
        by=None,
        workspace_id=workspace.pk,
        target_type="workspace",
        target_id=str(workspace.pk),
        detail={"egressAllow": workspace.egress_allow},
    )


def _is_old_address(found: object, wanted: str) -> bool:
    """Whether it is the shop's, but for the port."""
    if not isinstance(found, str) or found == wanted:
        return False
    old, new = urlsplit(found), urlsplit(wanted)
    return (old.scheme, old.hostname, old.path) == (new.scheme, new.hostname, new.path)


def _choose_writer(workspace: Workspace) -> None:
    """Let the language model draft once one is configured, and the fixed text once none is.

    Only while the workflow is as the demo brought it: an author's change stands.
    """
    name = demo.STARTED
    template = Template.objects.filter(workspace=workspace, name=_definition(name).name).first()
    if template is None or template.archived_at is not None:
        return
    newest = template.versions.order_by("-number").first()
    other = _definition(name, llm=not _has_llm())
    if newest is not None and newest.content_hash == content_hash(other) and template.created_by:
        authoring.update_template(
            template_id=template.pk, by=template.created_by, definition=_definition(name)
        )


# -- demo.json --------------------------------------------------------------------


def _kept(path: Path, workspace: Workspace) -> JSONObject | None:
    """What was written before, if it is about this workspace and names all users."""
    try:
        found: Any = json.loads(path.read_text())
        users = found["users"]
        known = found["workspaceId"] == str(workspace.pk) and all(
            users[person.key]["password"] for person in demo.PEOPLE
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(found) if known else None


def _new_passwords() -> JSONObject:
    users: JSONObject = {}
    for person in demo.PEOPLE:
        user = User.objects.filter(email=person.email).order_by("pk").first()
        if user is None:  # somebody deleted them
            continue
        password = secrets.token_urlsafe(12)
        user.set_password(password)
        user.save(update_fields=["password"])
        users[person.key] = {"username": user.username, "password": password}
    return users


def _facts(workspace: Workspace, base_url: str, users: JSONObject) -> JSONObject:
    """`{"baseUrl", "workspaceId", "users": {role: {...}}, "templates": {name: id}, "executionId"}`"""
    templates = Template.objects.filter(
        workspace=workspace, created_by__email__endswith=f"@{demo.SLUG}.example"
    )
    names = {_definition(name).name for name in demo.DEFINITIONS}
    ids: dict[str, UUID] = dict(
        templates.filter(name__in=names).order_by("-created_at").values_list("name", "pk")
    )
    first = (
        Execution.objects.filter(workspace=workspace, parent_block=None)
        .order_by("created_at", "pk")
        .values_list("pk", flat=True)
        .first()
    )
    return {
        "baseUrl": base_url,
        "workspaceId": str(workspace.pk),
        "users": users,
        "templates": {name: str(ids[name]) for name in sorted(ids)},
        "executionId": str(first) if first else None,
    }


def _write(path: Path, facts: JSONObject) -> None:
    """Whole or not at all, for its owner's eyes only."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        json.dump(facts, out, indent=2)
        out.write("\n")
    fresh.replace(path)
