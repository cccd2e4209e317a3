"""A clock that stands still until a test puts it forward: the database's, for everything that asks it.

The product takes every time from `statement_timestamp()` in SQL, Django's `Now()` included.  A function
of that name in a schema that is searched before `pg_catalog` takes its place on new connections; column
defaults, which were bound when the tables were made, are bound again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from django.db import connection

_INSTALL = """
CREATE SCHEMA model_clock;
CREATE TABLE model_clock.present (at timestamptz NOT NULL);
INSERT INTO model_clock.present VALUES (pg_catalog.statement_timestamp());
CREATE FUNCTION model_clock.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE AS $$
  SELECT at FROM model_clock.present
$$;
"""
_DEFAULTS = """
SELECT format('ALTER TABLE %%I ALTER COLUMN %%I SET DEFAULT %%s.statement_timestamp()', c.relname, a.attname,
              %s::text)
FROM pg_attrdef d JOIN pg_class c ON c.oid = d.adrelid JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.adnum
WHERE n.nspname = 'public' AND pg_get_expr(d.adbin, d.adrelid) LIKE '%%statement_timestamp()'
"""


class Clock:
    def forward(self, seconds: float) -> None:
        with connection.cursor() as cursor:
            cursor.execute("UPDATE model_clock.present SET at = at + %s * interval '1 second'", [seconds])


@contextmanager
def shifted_clock() -> Iterator[Clock]:
    """For as long as this is open; connections of other threads that are open already keep the true time."""
    database = connection.ops.quote_name(connection.settings_dict["NAME"])
    with connection.cursor() as cursor:
        cursor.execute(_INSTALL)
        _bind_defaults("model_clock")
        cursor.execute(f"ALTER DATABASE {database} SET search_path = model_clock, pg_catalog, public")
    connection.close()
    try:
        yield Clock()
    finally:
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER DATABASE {database} RESET search_path")
            _bind_defaults("pg_catalog")
            cursor.execute("DROP SCHEMA model_clock CASCADE")
        connection.close()


def _bind_defaults(schema: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_DEFAULTS, [schema])
        for (statement,) in cursor.fetchall():
            cursor.execute(statement)
