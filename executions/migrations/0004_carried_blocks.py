from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("executions", "0003_items_and_rounds"),
    ]

    operations = [
        migrations.AddField(
            model_name="blockexecution",
            name="carried_from",
            field=models.BigIntegerField(null=True),
        ),
    ]
