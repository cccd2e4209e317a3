"""Published workflows with one thing broken by hand: refused, and the answer points at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from rest_framework.test import APIClient

from agentflow.governance.roles import Role
from tests.factories.governance import WorkspaceFactory, client_of, member

from .conftest import Corpus, path_of

pytestmark = [pytest.mark.corpus, pytest.mark.django_db]

Template = dict[str, Any]


@dataclass(frozen=True)
class Broken:
    """`break_it` spoils a good template in place and gives the pointer the answer must name."""

    source: str
    code: str
    break_it: Callable[[Template], str]


def at(template: Template, block_id: str) -> tuple[int, dict[str, Any]]:
    blocks: list[dict[str, Any]] = template["blocks"]
    (found,) = [(i, block) for i, block in enumerate(blocks) if block["blockId"] == block_id]
    return found


def last_with(template: Template, wanted: Callable[[dict[str, Any]], Any]) -> tuple[int, dict[str, Any]]:
    return [(i, block) for i, block in enumerate(template["blocks"]) if wanted(block)][-1]


def unknown_dependency(template: Template) -> str:
    i, block = last_with(template, lambda block: len(block["dependencies"]) > 1)
    block["dependencies"][1] = "nobody"
    return f"/blocks/{i}/dependencies/1"


def duplicate_id(template: Template) -> str:
    _, block = last_with(template, lambda block: not block["dependencies"])
    template["blocks"].append({**block, "dependencies": []})
    return f"/blocks/{len(template['blocks']) - 1}/blockId"


def cycle(template: Template) -> str:
    """The first block of a chain is made to wait for its last."""
    waited_for = {name for block in template["blocks"] for name in block["dependencies"]}
    i, first = last_with(template, lambda block: not block["dependencies"] and block["blockId"] in waited_for)
    last = first["blockId"]
    while followers := [b["blockId"] for b in template["blocks"] if last in b["dependencies"]]:
        last = followers[0]
    first["dependencies"] = [last]
    return f"/blocks/{i}/dependencies/0"


def contradicting_branch(template: Template) -> str:
    """A later choice leads back to a block that it waits for itself."""
    i, block = at(template, "tf")
    block["conditions"]["branches"][0]["nextBlocks"].append("conditional")
    n = len(block["conditions"]["branches"][0]["nextBlocks"]) - 1
    return f"/blocks/{i}/conditions/branches/0/nextBlocks/{n}"


def bad_expression(template: Template) -> str:
    i, block = last_with(template, lambda block: block.get("when"))
    block["when"] = "input.guards[ && true"
    return f"/blocks/{i}/when"


def unknown_name(template: Template) -> str:
    i, block = at(template, "d1")
    block["conditions"]["expression"] = "github.event.action"
    return f"/blocks/{i}/conditions/expression"


def unknown_field(template: Template) -> str:
    i, block = last_with(template, lambda block: True)
    block["dependsOn"] = block["dependencies"]
    return f"/blocks/{i}/dependsOn"


def wrong_type(template: Template) -> str:
    i, block = last_with(template, lambda block: block["dependencies"])
    block["dependencies"] = block["dependencies"][0]
    return f"/blocks/{i}/dependencies"


def unreachable(template: Template) -> str:
    """Two branches of which one is taken, and a block that waits for both."""
    _, block = at(template, "processOrder")
    both = [branch["nextBlocks"][0] for branch in block["conditions"]["branches"][:2]]
    agent = {"agentId": "sim.both", "name": "both", "dependencies": both, "join": "all"}
    template["blocks"].append({"blockId": "both", **agent})
    return f"/blocks/{len(template['blocks']) - 1}"


def two_who_fill_in(template: Template) -> str:
    i, block = at(template, "review")
    block["humanInLoop"] |= {"type": "edit", "quorum": 2}
    return f"/blocks/{i}/humanInLoop/quorum"


KINDS = [
    Broken("dag05-sarek", "unknown_dependency", unknown_dependency),
    Broken("dag07-1000genome2ch", "duplicate_block_id", duplicate_id),
    Broken("dag10-viralrecon", "cycle", cycle),
    Broken("dag17-conductor-nested-switch", "contradicting_branch", contradicting_branch),
    Broken("human04-uv-release", "syntax_error", bad_expression),
    Broken("dag16-conductor-nested-fork", "unknown_name", unknown_name),
    Broken("dag12-tokio-ci", "unknown_field", unknown_field),
    Broken("dag14-argo-nested-parallelism", "wrong_type", wrong_type),
    Broken("dag19-swf-switch", "unreachable_block", unreachable),
    Broken("human05-job-announcement", "contradicting_fields", two_who_fill_in),
]


@pytest.fixture
def author() -> APIClient:
    return client_of(member(WorkspaceFactory.create(), Role.AUTHOR))


@pytest.mark.parametrize("broken", KINDS, ids=lambda broken: broken.break_it.__name__)
def test_a_broken_copy_is_refused_where_it_is_broken(
    broken: Broken, corpus: Corpus, author: APIClient
) -> None:
    template = corpus.workflow(path_of(broken.source)).template
    pointer = broken.break_it(template)
    reply = author.post("/api/v1/templates", template, format="json")
    assert reply.status_code in (400, 422), reply.content
    assert reply["Content-Type"] == "application/problem+json"
    errors = [issue for issue in reply.json()["issues"] if issue["severity"] == "error"]
    named = {(issue["pointer"], issue["code"]) for issue in errors}
    assert (pointer, broken.code) in named, named
    assert all(issue["message"] and issue["remedy"] for issue in errors)
