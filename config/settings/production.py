"""Production has no default secret and trusts only what the environment names."""

from config import env

from .base import *  # noqa: F403

SECRET_KEY = env.text("AGENTFLOW_SECRET_KEY")
ALLOWED_HOSTS = env.words("AGENTFLOW_ALLOWED_HOSTS")
SECURE_SSL_REDIRECT = env.boolean("AGENTFLOW_SSL_REDIRECT", True)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SECURE_HSTS_SECONDS = 31_536_000
SESSION_COOKIE_SECURE = True
CSRF_COOKIE_SECURE = True

if AGENTFLOW_SANDBOX not in {"bwrap", "off"}:  # noqa: F405
    raise env.BadEnvironment("AGENTFLOW_SANDBOX must be bwrap or off in production")
