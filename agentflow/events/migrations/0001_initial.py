import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name='Event',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('xid', models.BigIntegerField()),
                ('workspace_id', models.UUIDField()),
                ('execution_id', models.UUIDField(null=True)),
                ('block_id', models.TextField(null=True)),
                ('type', models.TextField()),
                ('level', models.SmallIntegerField(choices=[(10, 'Debug'), (20, 'Info'), (30, 'Warning'), (40, 'Error')], default=20)),
                ('payload', models.JSONField(null=True)),
                ('at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'indexes': [
                    models.Index(fields=['execution_id', 'xid', 'id'], name='event_by_execution'),
                    models.Index(condition=models.Q(('type__startswith', 'approval_')), fields=['workspace_id', 'xid', 'id'], name='event_of_approvals'),
                ],
            },
        ),
        # The database fills these in, for writers in SQL that name neither.
        migrations.RunSQL(
            "ALTER TABLE events_event ALTER COLUMN xid SET DEFAULT (pg_current_xact_id()::text::bigint),"
            " ALTER COLUMN level SET DEFAULT 20",
            migrations.RunSQL.noop,
        ),
    ]
