"""Values too large for a row."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models.functions import Now


class BlobPlace(models.TextChoices):
    DATABASE = "database"
    S3 = "s3"


class Blob(models.Model):
    """A value too large for a block's row: its JSON text, once per workspace.

    No foreign key leads here: rows name it by its id, and `blobs.tidy` removes what none names.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    workspace_id = models.UUIDField()
    sha256 = models.CharField(max_length=64)
    bytes = models.PositiveIntegerField()
    place = models.CharField(max_length=8, choices=BlobPlace.choices, default=BlobPlace.DATABASE)
    data = models.BinaryField(null=True)  # where `place` is the database
    stored = models.BooleanField(default=False)  # the bytes are where `place` says
    removed = models.BooleanField(default=False)  # no new row may refer to it; it goes once its object has
    touched_at = models.DateTimeField(db_default=Now())  # when a row was last about to refer to it

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["workspace_id", "sha256"],
                condition=models.Q(removed=False),
                name="one_blob_per_content",
            )
        ]
        indexes = [models.Index(fields=["touched_at"], name="blob_by_age")]  # what may be tidied

    def __str__(self) -> str:
        return str(self.id)
