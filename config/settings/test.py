"""The test suite, on the same engines as the product."""

from .base import *  # noqa: F403

SECRET_KEY = "test-only-and-never-used-elsewhere-0123456789"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
