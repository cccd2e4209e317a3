"""Task messages for the hints, put into their queue in one command.

Each is what Celery would send, made from a prototype of Celery's own; only the ids and the arguments
differ.  A hint is sent for every start and every helper, and Celery's way through routers, producers and
exchanges takes several times as long as the rest of it.
"""

from __future__ import annotations

import base64
import json
import uuid
from functools import cache
from typing import Any

import redis
from celery import current_app
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

PATIENCE_S = 1.0  # a hint may be lost, but nothing may wait for its broker


def send(task: str, queue: str, *args: str) -> None:
    """Put a message for `task` into `queue`, for a worker that need not tell what came of it.

    Raises:
        redis.RedisError: the broker did not take it.
    """
    _broker().lpush(f"{settings.REDIS_PREFIX}{queue}", json.dumps(message(task, queue, args)))


def message(task: str, queue: str, args: tuple[str, ...]) -> dict[str, Any]:
    """The message as Kombu lays it down in Redis."""
    headers, embedded = _prototype(task)
    task_id = str(uuid.uuid4())
    body = json.dumps([args, {}, embedded])
    return {
        "body": base64.b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {**headers, "id": task_id, "root_id": task_id, "argsrepr": repr(args)},
        "properties": {
            "correlation_id": task_id,
            "reply_to": current_app.thread_oid,
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


@cache
def _prototype(task: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What Celery writes into the head of each message for the task, and behind the arguments."""
    made = current_app.amqp.as_task_v2("", task, args=(), kwargs={}, ignore_result=True)
    return made.headers, made.body[2]


@cache
def _broker() -> redis.Redis:
    return redis.Redis.from_url(
        settings.BROKER_URL,
        socket_connect_timeout=PATIENCE_S,
        socket_timeout=PATIENCE_S,
        retry=Retry(NoBackoff(), 1),  # an idle connection may have been cut
    )
