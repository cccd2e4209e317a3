"""The doctor beside the running product."""

from __future__ import annotations

import json
from contextlib import suppress
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command

from tests.service import Service

pytestmark = pytest.mark.slow


def examined() -> dict[str, Any]:
    out = StringIO()
    with suppress(SystemExit):  # the verdict is in the text, too
        call_command("doctor", "--json", stdout=out)
    body: dict[str, Any] = json.loads(out.getvalue())
    return {finding["check"]: finding["verdict"] for finding in body["findings"]} | {"all": body["healthy"]}


def test_the_product_is_healthy_until_its_worker_dies(service: Service) -> None:
    service.until(lambda: examined()["all"], why="all processes to have stamped their rows")
    found = examined()
    assert found["queue blocks"] == found["queue control"] == found["workers"] == found["clock"] == "ok"
    service.kill_worker()
    found = examined()
    assert found["queue blocks"] != "ok"
    assert found["queue control"] != "ok"
