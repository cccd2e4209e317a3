"""How the hot tables are stored: room on each page for HOT updates, and a vacuum that keeps up."""

from django.db import migrations

_HOT = {
    "executions_execution": 80,
    "executions_blockexecution": 70,
    "executions_timer": 70,
}
_VACUUM = "autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05"


class Migration(migrations.Migration):
    dependencies = [("executions", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql=f"ALTER TABLE {table} SET (fillfactor = {fillfactor}, {_VACUUM})",
            reverse_sql=f"ALTER TABLE {table} RESET (fillfactor, autovacuum_vacuum_scale_factor,"
            " autovacuum_vacuum_threshold, autovacuum_analyze_scale_factor)",
        )
        for table, fillfactor in _HOT.items()
    ]
