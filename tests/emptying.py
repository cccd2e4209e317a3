"""Emptying the database between tests.

Django truncates every table and writes its content types and permissions again, which takes longer than
most tests.  Here only what holds rows is emptied, and what `migrate` wrote stays.
"""

from __future__ import annotations

from django.db import connection, transaction

WRITTEN_BY_MIGRATE = frozenset({"django_migrations", "django_content_type", "auth_permission"})
LARGE_BYTES = 65_536  # removed row by row, so much would be read over until the next vacuum


def empty() -> None:
    """Remove all rows that tests wrote.  Sequences go on: no key is given twice."""
    tables = [name for name in connection.introspection.table_names() if name not in WRITTEN_BY_MIGRATE]
    with transaction.atomic(), connection.cursor() as cursor:
        # Whoever owns the server may pass over what guards the rows, as TRUNCATE does.
        cursor.execute("SET LOCAL session_replication_role = replica")
        cursor.execute(
            " UNION ALL ".join(
                f"SELECT '{name}', pg_relation_size('{name}') WHERE EXISTS (SELECT FROM {name})"
                for name in tables
            )
        )
        held = cursor.fetchall()
        large = [name for name, size in held if size > LARGE_BYTES]
        if large:
            cursor.execute(f"TRUNCATE {', '.join(large)} CASCADE")
        for name, size in held:
            if size <= LARGE_BYTES:
                cursor.execute(f"DELETE FROM {name}")
