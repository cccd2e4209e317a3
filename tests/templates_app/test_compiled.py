from __future__ import annotations

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from agentflow.errors import NotFound
from agentflow.workflow.definition import dump
from templates_app import compiled
from tests.factories.templates import TemplateFactory, TemplateVersionFactory

pytestmark = pytest.mark.django_db


def test_a_definition_is_read_once() -> None:
    version = TemplateVersionFactory.create()
    first = compiled.definition_of(version.pk)
    assert dump(first) == version.definition
    with CaptureQueriesContext(connection) as queries:
        assert compiled.definition_of(version.pk) is first
    assert len(queries) == 0


def test_a_version_that_is_not_there_is_not_remembered() -> None:
    with pytest.raises(NotFound):
        compiled.definition_of(2**40)


def test_what_is_kept_is_bounded_by_blocks() -> None:
    template = TemplateFactory.create()
    large = compiled.BLOCKS_KEPT // 2
    versions = [
        TemplateVersionFactory.create(
            template=template,
            number=number,
            definition={"name": "Large", "blocks": [{"blockId": str(n)} for n in range(large)]},
        )
        for number in (1, 2, 3)
    ]
    first = compiled.definition_of(versions[0].pk)
    for version in versions[1:]:
        compiled.definition_of(version.pk)
    assert sum(len(kept.blocks) for kept in compiled._kept.values()) <= compiled.BLOCKS_KEPT
    assert compiled.definition_of(versions[0].pk) is not first
