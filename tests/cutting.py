"""Losing the database for a moment."""

from __future__ import annotations

from django.db import connection


def cut() -> None:
    """End this thread's connection from outside."""
    connection.ensure_connection()
    other = connection.copy()
    with other.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.connection.info.backend_pid])
    other.close()
