from django.db import migrations

REFUSE = """
CREATE FUNCTION templates_app_version_is_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a template version is never changed; only its status may move'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER version_immutable BEFORE UPDATE OF
    id, template_id, number, label, definition, content_hash, block_count, calls, created_by_id, created_at
    ON templates_app_templateversion
    FOR EACH ROW EXECUTE FUNCTION templates_app_version_is_immutable();
"""
ALLOW = """
DROP TRIGGER version_immutable ON templates_app_templateversion;
DROP FUNCTION templates_app_version_is_immutable();
"""


class Migration(migrations.Migration):
    dependencies = [("templates_app", "0001_initial")]

    operations = [migrations.RunSQL(REFUSE, ALLOW)]
