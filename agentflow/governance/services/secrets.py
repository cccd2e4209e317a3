"""Secrets of a workspace: set, deleted, sealed anew.  Calls are given them, readers never."""

from __future__ import annotations

from uuid import UUID

from django.db import transaction

from ...errors import InvalidInput, NotFound
from ...workflow.secret_references import NAME, NAME_CHARS
from .. import access, audit, vault
from ..access import Principal
from ..models import Secret, User
from ..roles import Permission

# What is shorter could not be told from ordinary text when it is taken out of answers and logs.
LEAST_CHARS = 8
MOST_CHARS = 16_384


class NoSuchSecret(NotFound):
    """There is no such secret."""


class BadSecret(InvalidInput):
    """The secret cannot be stored like this."""

    code = "invalid_secret"


@transaction.atomic
def put_secret(*, by: Principal, workspace_id: UUID, name: str, value: str) -> tuple[Secret, bool]:
    """Set a secret, and say whether it is new.

    Raises:
        NotFound, NotPermitted: `by` does not administer the workspace.
        BadSecret: with every issue.
    """
    access.require(by, Permission.ADMINISTER, workspace_id)
    check(name, value)
    person = by if isinstance(by, User) else None
    sealed = vault.seal(value, workspace_id=workspace_id, name=name)
    secret, created = Secret.objects.select_for_update().get_or_create(
        workspace_id=workspace_id, name=name, defaults={"sealed": sealed, "updated_by": person}
    )
    if not created:
        secret.sealed, secret.sealed_before, secret.updated_by = sealed, secret.sealed, person
        secret.save()
    _told("secret.set", secret, by)
    return secret, created


@transaction.atomic
def delete_secret(*, by: Principal, workspace_id: UUID, name: str) -> None:
    """Remove a secret; calls of agents that name it fail from then on.

    Raises:
        NotFound, NotPermitted: `by` does not administer the workspace.
        NoSuchSecret
    """
    access.require(by, Permission.ADMINISTER, workspace_id)
    secret = Secret.objects.select_for_update().filter(workspace_id=workspace_id, name=name).first()
    if secret is None:
        raise NoSuchSecret
    _told("secret.delete", secret, by)
    secret.delete()


def rotate() -> tuple[int, list[Secret]]:
    """Seal every secret with the first key; gives how many, and those that no key opens.

    Each in a transaction of its own: safe to repeat, and to break off.
    """
    done, unopened = 0, []
    for pk in list(Secret.objects.order_by("pk").values_list("pk", flat=True)):
        with transaction.atomic():
            secret = Secret.objects.select_for_update().filter(pk=pk).first()
            if secret is None:
                continue
            try:
                secret.sealed = vault.resealed(secret.sealed)
                secret.sealed_before = secret.sealed_before and vault.resealed(secret.sealed_before)
            except vault.CannotOpen:
                unopened.append(secret)
                continue
            secret.save(update_fields=["sealed", "sealed_before"])
            done += 1
    if done:
        with transaction.atomic():
            audit.record(
                action="secret.rotate",
                by=None,
                workspace_id=None,
                target_type="secret",
                target_id="*",
                detail={"resealed": done, "unopened": len(unopened)},
            )
    return done, unopened


def check(name: str, value: str) -> None:
    """
    Raises:
        BadSecret: with every issue; none repeats the value.
    """
    issues = []
    if not NAME.fullmatch(name):
        message = f"A name is up to {NAME_CHARS} letters, digits and _, and begins with no digit."
        issues.append({"pointer": "/name", "code": "bad_name", "message": message, "remedy": ""})
    if not LEAST_CHARS <= len(value) <= MOST_CHARS:
        message = f"A secret has {LEAST_CHARS} to {MOST_CHARS} characters."
        issues.append({"pointer": "/value", "code": "bad_length", "message": message, "remedy": ""})
    if issues:
        raise BadSecret(issues=issues)


def _told(action: str, secret: Secret, by: Principal) -> None:
    audit.record(
        action=action,
        by=by,
        workspace_id=secret.workspace_id,
        target_type="secret",
        target_id=str(secret.pk),
        detail={"name": secret.name},
    )
