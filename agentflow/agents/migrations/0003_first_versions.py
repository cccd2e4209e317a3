import hashlib
import json

from django.db import migrations

REFUSE = """
CREATE FUNCTION agents_version_is_immutable() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'versions of agents are never changed'
        USING ERRCODE = 'integrity_constraint_violation';
END $$;
CREATE TRIGGER agent_version_immutable
    BEFORE UPDATE OF agent_id, number, sha256, tool_type, configuration, effect, input_schema, output_schema
    ON agents_agentversion FOR EACH ROW EXECUTE FUNCTION agents_version_is_immutable();
"""
ALLOW = """
DROP TRIGGER agent_version_immutable ON agents_agentversion;
DROP FUNCTION agents_version_is_immutable();
"""
_PLAIN = {"accept", "accept-language", "content-type", "user-agent"}


def _hidden(configuration):
    """As `configuration.hidden` on the day of this migration."""
    shown = {key: "********" if key == "apiKey" and value else value for key, value in configuration.items()}
    if isinstance(configuration.get("headers"), dict):
        shown["headers"] = {
            name: value if name.lower() in _PLAIN else "********"
            for name, value in configuration["headers"].items()
        }
    return shown


def _first_versions(apps, schema_editor):
    version = apps.get_model("agents", "AgentVersion")
    for agent in apps.get_model("agents", "Agent").objects.iterator():
        if agent.capabilities:
            names = dict.fromkeys(each for each in agent.capabilities if isinstance(each, str) and each)
            agent.capabilities = [{"name": name} for name in names]
            agent.save(update_fields=["capabilities"])
        content = {
            "toolType": agent.tool_type,
            "configuration": _hidden(agent.configuration),
            "effect": agent.effect,
            "inputSchema": agent.input_schema,
            "outputSchema": agent.output_schema,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        version.objects.create(
            agent=agent,
            number=1,
            sha256=hashlib.sha256(text.encode()).hexdigest(),
            tool_type=agent.tool_type,
            configuration=content["configuration"],
            effect=agent.effect,
            input_schema=agent.input_schema,
            output_schema=agent.output_schema,
        )


def _names_only(apps, schema_editor):
    for agent in apps.get_model("agents", "Agent").objects.exclude(capabilities=[]):
        agent.capabilities = [each["name"][:100] for each in agent.capabilities]
        agent.save(update_fields=["capabilities"])


class Migration(migrations.Migration):
    dependencies = [("agents", "0002_registry")]

    operations = [
        migrations.RunSQL(REFUSE, ALLOW),
        migrations.RunPython(_first_versions, _names_only),
    ]
