"""The running parts together: what scenario tests stand on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import pytest
from django.contrib.staticfiles import finders
from django.db import connection

from tests.service import POOL, Service
from tests.waiting import PATIENCE_S

pytestmark = pytest.mark.slow


def get(url: str) -> int:
    with urlopen(url, timeout=PATIENCE_S) as reply:
        return int(reply.status)


def test_a_killed_worker_is_gone_until_it_is_started_again(service: Service) -> None:
    (first,) = service.workers
    service.kill_worker()
    assert service.workers == []
    second = service.start_worker()
    assert service.workers == [second]
    assert second != first


def test_the_web_server_shares_a_bounded_number_of_connections(service: Service) -> None:
    with ThreadPoolExecutor(60) as crowd:
        replies = list(crowd.map(lambda _: get(f"{service.base_url}/ready"), range(300)))
    assert set(replies) == {200}
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
        (count,) = cursor.fetchone()
    others = 2 * 12 + 4 + 1  # workers, clock, this test
    assert count <= int(POOL["AGENTFLOW_DATABASE_POOL"]) + others


def test_static_files_need_no_collecting(service: Service) -> None:
    assert finders.find("admin/css/base.css")
    assert get(f"{service.base_url}/static/admin/css/base.css") == 200
