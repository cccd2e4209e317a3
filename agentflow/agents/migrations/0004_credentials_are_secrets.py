"""Credentials that stood in agents' configurations become secrets that these refer to."""

import re

from django.db import migrations

from agentflow.governance import vault

_CREDENTIAL_HEADERS = {"authorization", "proxy-authorization", "cookie", "x-api-key", "api-key"}


def _in_clear(configuration):
    """(where it stands, its key there, the credential)"""
    if isinstance(configuration.get("apiKey"), str) and configuration["apiKey"]:
        yield configuration, "apiKey", configuration["apiKey"]
    headers = configuration.get("headers")
    for name, text in list(headers.items()) if isinstance(headers, dict) else ():
        if name.lower() in _CREDENTIAL_HEADERS and isinstance(text, str) and text:
            yield headers, name, text


def _seal(apps, schema_editor):
    agents, secrets = apps.get_model("agents", "Agent"), apps.get_model("governance", "Secret")
    entries = apps.get_model("governance", "AuditEntry")
    for agent in agents.objects.order_by("pk").iterator():
        moved = [each for each in _in_clear(agent.configuration) if "${secrets." not in each[2]]
        for place, key, credential in moved:
            wanted = re.sub("[^A-Za-z0-9]+", "_", f"AGENT_{agent.agent_id}_{key}").upper()[:90]
            taken = set(
                secrets.objects.filter(workspace_id=agent.workspace_id).values_list("name", flat=True)
            )
            name = next(
                each for each in (wanted, *(f"{wanted}_{n}" for n in range(2, 10_000))) if each not in taken
            )
            secret = secrets.objects.create(
                workspace_id=agent.workspace_id,
                name=name,
                sealed=vault.seal(credential, workspace_id=agent.workspace_id, name=name),
            )
            place[key] = "${secrets." + name + "}"
            entries.objects.create(
                actor_name="system",
                action="secret.set",
                workspace_id=agent.workspace_id,
                target_type="secret",
                target_id=str(secret.pk),
                detail={"name": name, "movedFrom": agent.agent_id},
                channel="cli",
            )
        if moved:
            agent.save(update_fields=["configuration"])


class Migration(migrations.Migration):
    dependencies = [("agents", "0003_first_versions"), ("governance", "0003_secret")]

    operations = [migrations.RunPython(_seal, migrations.RunPython.noop)]
