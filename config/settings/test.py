"""The test suite, on the same engines as the product.

A test run brings its own PostgreSQL and Valkey (tests/conftest.py).  Their addresses follow from the
process id, so that loading these settings needs nothing running: type checks load them too.
`AGENTFLOW_TEST_EXTERNAL=1` uses the servers named by AGENTFLOW_DATABASE_URL and AGENTFLOW_REDIS_URL.
"""

import os
import tempfile
from pathlib import Path

from config import env
from config.engines import Engines

TEST_ENGINES: Engines | None = None
if not env.boolean("AGENTFLOW_TEST_EXTERNAL", False):
    TEST_ENGINES = Engines(Path(tempfile.gettempdir()) / f"agentflow-tests-{os.getpid()}", fast=True)
    # Whatever the shell names is a developer's data, never a test's.
    os.environ.update(TEST_ENGINES.environment())

from .base import *  # noqa: E402, F403
from .demo import *  # noqa: E402, F403

SECRET_KEY = "test-only-and-never-used-elsewhere-0123456789"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
WHITENOISE_USE_FINDERS = True
STATIC_ROOT = None
AGENTFLOW_HEALTH_CHECK_SECONDS = 0  # no test asks servers that are not there
AGENTFLOW_LLM_BASE_URL = ""
AGENTFLOW_LLM_API_KEY = ""
