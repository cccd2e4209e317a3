"""Objects in an S3-compatible store, for values too large for a row.

The endpoint, bucket and keys are the operator's settings, never a template's or a user's, so calls go
there directly and not through the egress client.  Every call has short time limits: what cannot be
stored stays in the database, and the clock tries again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar

from django.conf import settings

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

CONNECT_S = 1.0
READ_S = 5.0
DELETED_AT_ONCE = 1000  # the most that S3 takes
T = TypeVar("T")


class BlobStoreError(Exception):
    """The store did not do what it was asked."""


class NoSuchObject(BlobStoreError):
    """There is no object of that name."""


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where the objects are.  `endpoint` empty: Amazon's; keys empty: what boto3 finds by itself."""

    bucket: str
    endpoint: str = ""
    region: str = ""
    prefix: str = ""
    access_key: str = ""
    secret_key: str = ""


class S3Store:
    """put, get, delete: each may be repeated."""

    def __init__(self, options: S3Options) -> None:
        self.options = options
        self._client: S3Client | None = None
        self._lock = threading.Lock()

    def put(self, name: str, data: bytes) -> None:
        self._do(
            lambda s3: s3.put_object(
                Bucket=self.options.bucket,
                Key=self._key(name),
                Body=data,
                ContentType="application/json",
            )
        )

    def get(self, name: str) -> bytes:
        """Raises NoSuchObject."""
        return self._do(
            lambda s3: s3.get_object(Bucket=self.options.bucket, Key=self._key(name))["Body"].read()
        )

    def delete(self, names: Sequence[str]) -> None:
        """Objects that are not there count as deleted."""
        for begin in range(0, len(names), DELETED_AT_ONCE):
            objects = [{"Key": self._key(name)} for name in names[begin : begin + DELETED_AT_ONCE]]
            answer = self._do(
                lambda s3, objects=objects: s3.delete_objects(  # type: ignore[misc]  # mypy and defaults
                    Bucket=self.options.bucket, Delete={"Objects": objects, "Quiet": True}
                )
            )
            if answer.get("Errors"):
                raise BlobStoreError(f"{len(answer['Errors'])} objects could not be deleted.")

    def check(self) -> None:
        """Raises BlobStoreError where the bucket does not answer or may not be used."""
        self._do(lambda s3: s3.head_bucket(Bucket=self.options.bucket))

    def _key(self, name: str) -> str:
        return f"{self.options.prefix}{name}"

    def _do(self, call: Callable[[S3Client], T]) -> T:
        from botocore.exceptions import BotoCoreError, ClientError
        from urllib3.exceptions import HTTPError

        try:
            return call(self._connected())
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in {"NoSuchKey", "404"}:
                raise NoSuchObject(code) from error
            raise BlobStoreError(f"The object store answered {code or 'an error'}.") from error
        except (BotoCoreError, HTTPError, OSError, ValueError) as error:
            raise BlobStoreError(f"The object store did not answer: {type(error).__name__}.") from error

    def _connected(self) -> S3Client:
        """One client for all threads: it is safe to share, and costs a quarter of a second to make."""
        with self._lock:
            if self._client is None:
                self._client = _client(self.options)
            return self._client


def _client(options: S3Options) -> S3Client:
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=options.endpoint or None,
        region_name=options.region or None,
        aws_access_key_id=options.access_key or None,
        aws_secret_access_key=options.secret_key or None,
        config=Config(
            connect_timeout=CONNECT_S,
            read_timeout=READ_S,
            retries={"total_max_attempts": 2, "mode": "standard"},
            # Many compatible servers know neither the newer checksums nor names of buckets in host names.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path"} if options.endpoint else {},
        ),
    )


def configured() -> S3Store | None:
    """The store that the settings name; None: there is none.  It is read from even where new values stay
    in the database."""
    if not settings.AGENTFLOW_S3_BUCKET:
        return None
    return _store(
        S3Options(
            bucket=settings.AGENTFLOW_S3_BUCKET,
            endpoint=settings.AGENTFLOW_S3_ENDPOINT,
            region=settings.AGENTFLOW_S3_REGION,
            prefix=settings.AGENTFLOW_S3_PREFIX,
            access_key=settings.AGENTFLOW_S3_ACCESS_KEY,
            secret_key=settings.AGENTFLOW_S3_SECRET_KEY,
        )
    )


@lru_cache(maxsize=4)
def _store(options: S3Options) -> S3Store:
    return S3Store(options)
