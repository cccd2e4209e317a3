from django.db import migrations

REFUSE = """
CREATE FUNCTION governance_audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'audit entries are never changed or deleted'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON governance_auditentry
    FOR EACH ROW EXECUTE FUNCTION governance_audit_is_append_only();
"""
ALLOW = """
DROP TRIGGER audit_append_only ON governance_auditentry;
DROP FUNCTION governance_audit_is_append_only();
"""


class Migration(migrations.Migration):
    dependencies = [("governance", "0001_initial")]

    operations = [migrations.RunSQL(REFUSE, ALLOW)]
