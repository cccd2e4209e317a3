"""The embedded engines: started, killed, started again."""

from __future__ import annotations


def test_the_suite_has_a_database_of_its_own(db: None) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SHOW fsync")
        assert cursor.fetchone() == ("off",)
