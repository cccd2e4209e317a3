"""What stands in the broker's queues."""

from __future__ import annotations

import base64
import json
from typing import Any

import redis
from django.conf import settings

from executions.lanes import QUEUE


def waiting(queue: str) -> list[dict[str, Any]]:
    """The messages in a queue, the latest first, with their bodies as JSON says."""
    broker = redis.Redis.from_url(settings.BROKER_URL)
    found = [json.loads(each) for each in broker.lrange(f"{settings.REDIS_PREFIX}{queue}", 0, -1)]
    return [{**each, "body": json.loads(base64.b64decode(each["body"]))} for each in found]


def hints_for(execution_id: object) -> int:
    """How many hints for a run stand in the common queue."""
    return sum(each["body"][0][0] == str(execution_id) for each in waiting(QUEUE))
