from __future__ import annotations

import pytest

from agentflow.types import JSONObject
from agentflow.workflow import secret_references, validation
from agentflow.workflow.parsing import parse


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"configuration": {"prompt": "Use ${secrets.KEY}."}}, "/blocks/0/configuration/prompt"),
        ({"configuration": {"a": [{"${ secrets.KEY }": 1}]}}, "/blocks/0/configuration/a/0/${ secrets.KEY }"),
        ({"configuration": {"a": "${secrets['KEY']}"}}, "/blocks/0/configuration/a"),
        ({"input": {"k": "${secrets.KEY}"}}, "/blocks/0/input/k"),
        (
            {"compensation": {"agentId": "undo", "configuration": {"k": "${secrets.KEY}"}}},
            "/blocks/0/compensation/configuration/k",
        ),
    ],
)
def test_a_template_cannot_refer_to_secrets(fields: JSONObject, pointer: str) -> None:
    body = {"name": "T", "blocks": [{"blockId": "a", "agentId": "agent", **fields}]}
    definition = parse(body)
    found = [
        (issue.severity, issue.pointer) for issue in validation.check(definition) if "secret" in issue.code
    ]
    assert found == [("error", pointer)]


def test_a_reference_stands_alone_or_within_a_text() -> None:
    value = {"a": ["Bearer ${secrets.KEY}", "${ secrets.B_2 }${secrets.KEY}", "$secrets.NO", 3]}
    assert secret_references.names(value) == {"KEY", "B_2"}
    assert secret_references.replaced(value, str.lower) == {"a": ["Bearer key", "b_2key", "$secrets.NO", 3]}
