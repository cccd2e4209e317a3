"""One machine: what `make run` starts."""

from config import env

from .base import *  # noqa: F403
from .demo import *  # noqa: F403

DEBUG = env.boolean("AGENTFLOW_DEBUG", False)
SECRET_KEY = env.text("AGENTFLOW_SECRET_KEY")
WHITENOISE_USE_FINDERS = True  # static files come from the packages: nothing to collect
STATIC_ROOT = None
