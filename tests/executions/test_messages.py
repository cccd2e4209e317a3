"""Hints are Celery's messages, though Celery does not make each of them."""

from __future__ import annotations

from typing import Any

from celery import current_app

from executions import messages
from executions.dispatch import JOIN, WALK
from tests.queues import waiting

NEW_EACH_TIME = ("id", "root_id", "correlation_id", "delivery_tag")


def without_ids(message: dict[str, Any]) -> dict[str, Any]:
    for part in (message["headers"], message["properties"]):
        for name in NEW_EACH_TIME:
            part.pop(name, None)
    return message


def test_a_hint_is_the_message_that_celery_would_send() -> None:
    for task, args in ((WALK, ("an id", "a queue")), (JOIN, ("an id",))):
        queue = f"compared.{task}"
        signature = current_app.signature(task, args=args, immutable=True, queue=queue)
        signature.apply_async(retry=False, ignore_result=True)
        messages.send(task, queue, *args)
        messages.send(task, queue, *args)
        again, ours, celerys = waiting(queue)
        for name in NEW_EACH_TIME:
            assert (ours["headers"] | ours["properties"]).get(name) != (
                again["headers"] | again["properties"]
            ).get(name)
        assert without_ids(ours) == without_ids(celerys)
