from django.db import migrations

REFUSE = """
CREATE FUNCTION agents_script_version_is_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'versions of scripts are never changed'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER script_version_immutable
    BEFORE UPDATE OF script_id, number, language, source, sha256, timeout_s, limits, input_schema, output_schema
    ON agents_scriptversion FOR EACH ROW EXECUTE FUNCTION agents_script_version_is_immutable();
"""
ALLOW = """
DROP TRIGGER script_version_immutable ON agents_scriptversion;
DROP FUNCTION agents_script_version_is_immutable();
"""
_SAME = ("language", "source", "sha256", "timeout_s", "limits", "input_schema", "output_schema")


def _first_versions(apps, schema_editor):
    version = apps.get_model("agents", "ScriptVersion")
    for script in apps.get_model("agents", "Script").objects.iterator():
        values = {name: getattr(script, name) for name in _SAME}
        version.objects.create(script=script, number=1, created_by_id=script.created_by_id, **values)


class Migration(migrations.Migration):
    dependencies = [("agents", "0009_script_versions")]

    operations = [
        migrations.RunSQL(REFUSE, ALLOW),
        migrations.RunPython(_first_versions, migrations.RunPython.noop),
    ]
