"""Is the process alive; can it do its work."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from django.core.cache import cache
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

_migrated = False  # once true it stays true for the life of a process


@require_safe
@never_cache
def health(request: HttpRequest) -> JsonResponse:
    """200 as long as the process answers."""
    return JsonResponse({"status": "ok"})


@require_safe
@never_cache
def ready(request: HttpRequest) -> JsonResponse:
    """200 when everything a request needs answers, else 503 naming what does not."""
    checks: dict[str, Callable[[], bool]] = {
        "database": _database,
        "valkey": _valkey,
        "migrations": _migrations,
    }
    results = {name: _holds(check) for name, check in checks.items()}
    fit = all(results.values())
    body = {"status": "ready" if fit else "not ready", "checks": results}
    return JsonResponse(body, status=200 if fit else 503)


def _holds(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:  # noqa: BLE001  # any failure means the same: not ready
        return False


def _database() -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return bool(cursor.fetchone()[0] == 1)


def _valkey() -> bool:
    token = secrets.token_hex(8)
    cache.set("ready:" + token, token, timeout=5)
    return bool(cache.get("ready:" + token) == token)


def _migrations() -> bool:
    global _migrated
    if not _migrated:
        executor = MigrationExecutor(connection)
        _migrated = not executor.migration_plan(executor.loader.graph.leaf_nodes())
    return _migrated
