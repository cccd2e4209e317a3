"""Settings that every environment shares.  `local`, `test` and `production` are short overlays."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from django.templatetags.static import static

from agentflow.workflow.faults import FaultKind
from config import env

BASE_DIR = Path(__file__).resolve().parent.parent.parent

DEBUG = False
ALLOWED_HOSTS = env.words("AGENTFLOW_ALLOWED_HOSTS", "127.0.0.1,localhost,[::1]")
# Where the web server is reached from outside: callback URLs begin with it.  Empty: none can be given.
AGENTFLOW_BASE_URL = env.address("AGENTFLOW_BASE_URL")
CSRF_TRUSTED_ORIGINS = env.words("AGENTFLOW_TRUSTED_ORIGINS")

INSTALLED_APPS = [
    "agentflow.governance",  # first: its templates of the admin go before unfold's
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_filters",
    "django_htmx",
    "channels",
    "guardian",
    "agentflow.api",
    "agentflow.events",
    "agentflow.agents",
    "templates_app",
    "executions",
    "approvals",
    "approvals.notify",
    "monitoring",
]

MIDDLEWARE = [
    "agentflow.api.middleware.OriginMiddleware",
    "monitoring.middleware.RequestMetricsMiddleware",
    "agentflow.api.middleware.PagePolicyMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
WSGI_APPLICATION = "config.wsgi.application"
APPEND_SLASH = True

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def database(url: str) -> dict[str, Any]:
    """`postgresql://user:password@host:port/name`, or `...@/name?host=/socket/directory`."""
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise env.BadEnvironment("AGENTFLOW_DATABASE_URL must start with postgresql://")
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    host = options.pop("host", parts.hostname or "")
    # The web server has as many threads as there ever were requests at once, and its sockets have more: they
    # share a pool.  Workers keep one connection per thread.
    pool = env.integer("AGENTFLOW_DATABASE_POOL", 0)
    if pool:
        options["pool"] = {"min_size": 1, "max_size": pool, "timeout": 10}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "agentflow",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or ""),
        "CONN_MAX_AGE": 0 if pool else None,
        "CONN_HEALTH_CHECKS": True,
        # Django turns prepared statements off; the engine's statements cost 2-4x more without them.
        # Compiling a plan costs more than any of our statements, and bad estimates set it off.
        "OPTIONS": {"prepare_threshold": 1, "server_side_binding": True, "options": "-c jit=off", **options},
    }


DATABASES = {"default": database(env.text("AGENTFLOW_DATABASE_URL"))}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"


def redis_url(db: int) -> str:
    """The broker's address with logical database `db`: `redis://host:port/0` or `unix:///path/to/socket`."""
    parts = urlsplit(REDIS_URL)
    if parts.scheme == "unix":
        return f"unix://{parts.path}?db={db}"
    return f"{parts.scheme}://{parts.netloc}/{db}"


def celery_url(db: int) -> str:
    """The same, as Kombu spells a unix socket."""
    url = redis_url(db)
    return url.replace("unix://", "redis+socket://").replace("?db=", "?virtual_host=")


REDIS_URL = env.text("AGENTFLOW_REDIS_URL")
REDIS_DATABASES = {"cache": 0, "channels": 1, "broker": 2, "results": 3}
REDIS_PREFIX = env.text("AGENTFLOW_REDIS_PREFIX", "")  # keeps two installations on one server apart

CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": redis_url(REDIS_DATABASES["cache"]),
        "KEY_PREFIX": REDIS_PREFIX + "agentflow",
        "OPTIONS": {"socket_connect_timeout": 1, "socket_timeout": 2},
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # A socket that waits for news blocks for 5 s at a time; redis-py gives up reading after 5 s too,
            # and an idle WebSocket would die of whichever comes first.
            "hosts": [{"address": redis_url(REDIS_DATABASES["channels"]), "socket_timeout": 15}],
            "prefix": REDIS_PREFIX + "agentflow",
            "capacity": 1000,
            "group_expiry": 60,  # members say every 10 s that they are there; dead ones are told no longer
        },
    }
}

AUTH_USER_MODEL = "governance.User"
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "guardian.backends.ObjectPermissionBackend",
]
GUARDIAN_MONKEY_PATCH_USER = False
ANONYMOUS_USER_NAME = None
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/inbox/"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
FORMAT_MODULE_PATH = ["config.formats"]
USE_TZ = True
STATIC_URL = "/static/"
STATIC_ROOT: Path | None = BASE_DIR / "staticfiles"

REST_FRAMEWORK: dict[str, Any] = {
    # The token comes first: its challenge makes an anonymous request a 401.
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "agentflow.api.authentication.Bearer",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_PARSER_CLASSES": ["agentflow.api.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "agentflow.api.schema.ProblemAutoSchema",
    "EXCEPTION_HANDLER": "agentflow.api.problems.handler",
    "URL_FORMAT_OVERRIDE": None,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": dt.timedelta(minutes=5),
    "REFRESH_TOKEN_LIFETIME": dt.timedelta(hours=12),
    "ALGORITHM": "HS256",
    "AUDIENCE": "agentflow",
    "ISSUER": "agentflow",
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "agentflow",
    "DESCRIPTION": "Workflows of agents that nothing is lost from, with people in the loop.",
    "VERSION": "1",
    "OAS_VERSION": "3.1.0",  # the template definition's own schema is JSON Schema 2020-12
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums"],
    "ENUM_NAME_OVERRIDES": {
        "WorkspaceRole": "agentflow.governance.roles.ROLE_CHOICES",
        "Durability": "executions.models.Durability",
        "ExecutionStatus": "executions.states.ExecutionStatus",
        "BlockStatus": "executions.states.BlockStatus",
        "ApprovalStatus": "approvals.states.ApprovalStatus",
        "IncidentState": "executions.incidents.states.IncidentState",
        "RepairState": "executions.incidents.states.RepairState",
        "RepairItemState": "executions.incidents.states.ItemState",
        "ProposalState": "executions.learning.states.ProposalState",
        "ProposalKind": "executions.api.proposals.KINDS",
        "IncidentNoteKind": "executions.incidents.models.NoteKind",
        "ApprovalKind": "approvals.models.ApprovalKind",
        "NotificationChannel": "approvals.notify.states.Channel",
        "NotificationTopic": "approvals.notify.states.Topic",
        "PersonalChannel": ["email", "browser"],
        "TargetChannel": ["webhook", "slack"],
        "DeliveryState": "approvals.notify.states.DeliveryState",
        "Digest": "approvals.notify.states.Digest",
        "AgentSourceKind": "agentflow.agents.models.SourceKind",
        "PolicyKind": "agentflow.agents.models.PolicyKind",
        "VersionStatus": ["draft", "published", "deprecated"],
        "FailureKind": ["transient", "agent", "configuration", "critical"],
        "FaultKind": [kind.value for kind in FaultKind],
        "AskOrFail": ["ask", "fail"],  # onUnknownOutcome, onExhausted
        "ConditionStatus": ["healthy", "unknown", "degraded", "unhealthy"],
        "TrendDirection": ["better", "steady", "worse"],
    },
}
# unfold's colours are the pages' tokens: grey ink, one indigo accent.  Steps run from light to dark.
UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "agentflow",
    "SITE_HEADER": "agentflow",
    "SITE_SUBHEADER": "Governs and operates",
    "SITE_URL": "/inbox/",
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "/static/agentflow/favicon.svg"}],
    "STYLES": [lambda request: static("agentflow/css/admin.css")],
    "SIDEBAR": {"navigation": "config.admin.navigation"},
    "DASHBOARD_CALLBACK": "config.admin.dashboard",
    "SHOW_HISTORY": False,
    "SHOW_VIEW_ON_SITE": False,
    "BORDER_RADIUS": "6px",
    "COLORS": {
        "base": {
            "50": "#f8f9fb",
            "100": "#f0f2f5",
            "200": "#e1e4e9",
            "300": "#c3c9d2",
            "400": "#9ea8b6",
            "500": "#606a78",
            "600": "#5a6472",
            "700": "#2a3039",
            "800": "#1e232b",
            "900": "#14181f",
            "950": "#0e1115",
        },
        "primary": {
            "50": "#f5f6ff",
            "100": "#eceffd",
            "200": "#d5dbfb",
            "300": "#b9c4ff",
            "400": "#9fb0ff",
            "500": "#6375ea",
            "600": "#3346d3",
            "700": "#2b3bb5",
            "800": "#252f8c",
            "900": "#222a4d",
            "950": "#171c38",
        },
    },
}

# Hints, not state: a lost message costs seconds, never work (docs/decisions).
BROKER_URL = redis_url(REDIS_DATABASES["broker"])
CELERY_BROKER_URL = celery_url(REDIS_DATABASES["broker"])
CELERY_RESULT_BACKEND = celery_url(REDIS_DATABASES["results"])
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "global_keyprefix": REDIS_PREFIX,
    "socket_timeout": 5,
    "socket_connect_timeout": 1,
    "socket_keepalive": True,
    "max_retries": 0,  # a publish that cannot connect gives up: kombu would wait 2 s and try again
    "health_check_interval": 10,
    "visibility_timeout": 6 * 3600,
    "queue_order_strategy": "executions.lanes:Turns",
}
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"global_keyprefix": REDIS_PREFIX}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_BROKER_CHANNEL_ERROR_RETRY = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_ACKS_LATE = False
CELERY_TASK_IGNORE_RESULT = True
CELERY_RESULT_EXPIRES = 3600
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_SEND_TASK_EVENTS = False
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_DB_REUSE_MAX = 1_000_000  # else the Django fixup reconnects around every task
CELERY_TASK_DEFAULT_QUEUE = "blocks"
CELERY_TASK_ROUTES = {
    "executions.tasks.join": {"queue": "control"},
    "executions.tasks.deliver": {"queue": "control"},
}


def mail_server(url: str) -> dict[str, Any]:
    """`smtp://user:password@host:port`, `smtps://...` or `smtp://...?starttls=true`; empty: no mail."""
    parts = urlsplit(url)
    if url and (parts.scheme not in {"smtp", "smtps"} or not parts.hostname):
        raise env.BadEnvironment("AGENTFLOW_EMAIL_URL must be an address such as smtp://mail.example.com:587")
    secure = parts.scheme == "smtps"
    return {
        "host": parts.hostname or "",
        "port": parts.port or (465 if secure else 25),
        "user": unquote(parts.username or ""),
        "password": unquote(parts.password or ""),
        "ssl": secure,
        "starttls": dict(parse_qsl(parts.query)).get("starttls") == "true",
    }


_mail = mail_server(env.text("AGENTFLOW_EMAIL_URL", ""))
AGENTFLOW_EMAIL = bool(_mail["host"])
EMAIL_HOST, EMAIL_PORT = _mail["host"], _mail["port"]
EMAIL_HOST_USER, EMAIL_HOST_PASSWORD = _mail["user"], _mail["password"]
EMAIL_USE_SSL, EMAIL_USE_TLS = _mail["ssl"], _mail["starttls"]
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = env.text("AGENTFLOW_EMAIL_FROM", "agentflow <agentflow@localhost>")
# How long messages that were sent, or given up, are kept.
AGENTFLOW_DELIVERY_DAYS = env.integer("AGENTFLOW_DELIVERY_DAYS", 30)

# Builtin agents: Python functions, named here and never by a template.  `effect` as in the template model.
AGENTFLOW_BUILTIN_AGENTS: dict[str, dict[str, Any]] = {
    "builtin.echo": {"function": "agentflow.agents.builtin.echo", "effect": "pure", "fast": True},
    "builtin.noop": {"function": "agentflow.agents.builtin.noop", "effect": "pure", "fast": True},
    "builtin.text": {"function": "agentflow.agents.builtin.text", "effect": "pure", "fast": True},
    # No word on speed: `n` decides whether this takes a microsecond or a second.
    "builtin.fib": {"function": "agentflow.agents.builtin.fib", "effect": "pure"},
}
# Outputs above 256 KB: in PostgreSQL, or in a bucket of an S3-compatible server.
AGENTFLOW_BLOB_STORE = env.text("AGENTFLOW_BLOB_STORE", "database")
AGENTFLOW_S3_ENDPOINT = env.text("AGENTFLOW_S3_ENDPOINT", "")
AGENTFLOW_S3_REGION = env.text("AGENTFLOW_S3_REGION", "")
AGENTFLOW_S3_BUCKET = env.text("AGENTFLOW_S3_BUCKET", "")
AGENTFLOW_S3_PREFIX = env.text("AGENTFLOW_S3_PREFIX", "")
AGENTFLOW_S3_ACCESS_KEY = env.text("AGENTFLOW_S3_ACCESS_KEY", "")
AGENTFLOW_S3_SECRET_KEY = env.text("AGENTFLOW_S3_SECRET_KEY", "")
if AGENTFLOW_BLOB_STORE not in {"database", "s3"}:
    raise env.BadEnvironment(f"AGENTFLOW_BLOB_STORE must be database or s3, not {AGENTFLOW_BLOB_STORE!r}")
if AGENTFLOW_BLOB_STORE == "s3" and not AGENTFLOW_S3_BUCKET:
    raise env.BadEnvironment("AGENTFLOW_S3_BUCKET is not set; AGENTFLOW_BLOB_STORE=s3 needs it")
if bool(AGENTFLOW_S3_ACCESS_KEY) != bool(AGENTFLOW_S3_SECRET_KEY):
    raise env.BadEnvironment("AGENTFLOW_S3_ACCESS_KEY and AGENTFLOW_S3_SECRET_KEY go together")
# Seal the workspaces' secrets: the first seals, all open.  Empty: a key derived from SECRET_KEY.
AGENTFLOW_SECRET_KEYS = env.fernet_keys("AGENTFLOW_SECRET_KEYS")
AGENTFLOW_SANDBOX = env.text("AGENTFLOW_SANDBOX", "auto")
# Between two looks at an agent's health; 0: only at agents that have an interval of their own.
AGENTFLOW_HEALTH_CHECK_SECONDS = env.integer("AGENTFLOW_HEALTH_CHECK_SECONDS", 300)
# So long a routing receipt keeps its candidates and scores; who was chosen stays as long as the run.
AGENTFLOW_RECEIPT_DAYS = env.integer("AGENTFLOW_RECEIPT_DAYS", 30)
AGENTFLOW_LLM_BASE_URL = env.text("AGENTFLOW_LLM_BASE_URL", "")
AGENTFLOW_LLM_API_KEY = env.text("AGENTFLOW_LLM_API_KEY", "")
AGENTFLOW_LLM_MODEL = env.text("AGENTFLOW_LLM_MODEL", "")
# Behind the same address: agents are matched by meaning, too.  Empty: by words alone.
AGENTFLOW_LLM_EMBEDDING_MODEL = env.text("AGENTFLOW_LLM_EMBEDDING_MODEL", "")
# MCP servers reachable over stdio: name -> {"command": [...], "env": {...}}.  A template names one,
# it never brings one.
AGENTFLOW_MCP_STDIO: dict[str, dict[str, Any]] = {}
