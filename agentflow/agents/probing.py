"""One look at an agent: does it answer?  Asks for nothing to be done, and writes no row."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

from django.conf import settings

from ..integrations import http, mcp, sandbox
from ..integrations.egress import EgressError, EgressPolicy
from ..types import JSONObject
from ..workflow.failures import FailureKind
from . import registry, secrets
from .discovery import origin
from .discovery.a2a import CARD
from .models import Agent, ToolType

SECONDS = 10.0
ANSWER_BYTES = 4 * 1024 * 1024
TOOLS_MAX = 1000


class Unwell(EgressError):
    """The agent answers, and not as it should; or what it needs is not there."""

    def __init__(self, message: str) -> None:
        super().__init__(FailureKind.AGENT, "unhealthy", message[:500])


def probe(agent: Agent) -> None:
    """API, A2A and AgentService are asked by GET or HEAD, MCP for its tools, LLM for its models; a Script
    must be stored and able to run.  A UseCase has nothing to ask.

    Raises:
        EgressError: it is not well.
        BuiltinFailure: a secret that it needs is not there.
    """
    configuration, _ = secrets.resolve_secrets(agent.workspace_id, agent.configuration)
    policy = EgressPolicy(registry.egress_allowed(agent.workspace_id))
    url = str(configuration.get("url") or "")
    own = agent.health_check.get("url")
    match agent.tool_type:
        case ToolType.API | ToolType.A2A | ToolType.AGENT_SERVICE if own:
            _good(policy, "GET", own, configuration)
        case ToolType.API:
            _alive(policy, f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/")
        case ToolType.A2A:
            _alive(policy, urljoin(url, CARD))
        case ToolType.AGENT_SERVICE:
            _good(policy, "GET", f"{url.rstrip('/')}/agents", configuration)
        case ToolType.MCP:
            _tool_listed(policy, configuration)
        case ToolType.LLM:
            _models(policy, configuration)
        case ToolType.SCRIPT:
            _runnable(agent)


def _good(policy: EgressPolicy, method: str, url: str, configuration: JSONObject) -> None:
    """Any 2xx.  Headers go along only to the server they were given for."""
    headers = configuration.get("headers") if origin(url) == origin(str(configuration.get("url"))) else None
    status = _status(policy, method, url, headers if isinstance(headers, dict) else {})
    if not 200 <= status < 300:
        raise Unwell(f"It answers {status}.")


def _alive(policy: EgressPolicy, url: str) -> None:
    """Any answer that is no server's error: what stands there need not have a page at this address."""
    status = _status(policy, "HEAD", url, {})
    if status >= 500 and status != 501:
        raise Unwell(f"It answers {status}.")


def _status(policy: EgressPolicy, method: str, url: str, headers: dict[str, str]) -> int:
    response = http.client(policy).request(
        method, url, headers=headers, timeout_s=SECONDS, max_bytes=ANSWER_BYTES
    )
    return response.status


def _tool_listed(policy: EgressPolicy, configuration: JSONObject) -> None:
    headers = configuration.get("headers")
    server = mcp.Server(
        name=str(configuration.get("server") or ""),
        url=str(configuration.get("url") or ""),
        headers=tuple(sorted((headers if isinstance(headers, dict) else {}).items())),
        policy=policy,
    )
    tools = mcp.list_tools(server, timeout_s=SECONDS, at_most=TOOLS_MAX)
    if configuration.get("tool") not in {tool.get("name") for tool in tools}:
        raise Unwell("The server does not list the tool.")


def _models(policy: EgressPolicy, configuration: JSONObject) -> None:
    base = configuration.get("baseUrl") or settings.AGENTFLOW_LLM_BASE_URL
    if not base:
        raise Unwell("No language model is configured.")
    own = configuration.get("baseUrl")
    key = configuration.get("apiKey") if own else settings.AGENTFLOW_LLM_API_KEY
    if not own:  # the operator's own address needs no entry in a workspace's list
        parts = urlsplit(base)
        policy = EgressPolicy((*policy.allow, parts.netloc))
    headers = {"authorization": f"Bearer {key}"} if key else {}
    status = _status(policy, "GET", f"{base.rstrip('/')}/models", headers)
    if status in {401, 403} or status >= 500:  # not every server lists its models
        raise Unwell(f"It answers {status}.")


def _runnable(agent: Agent) -> None:
    name, version = agent.configuration.get("script"), agent.configuration.get("version")
    script = registry.script(agent.workspace_id, str(name), version)
    if script is None:
        raise Unwell("Its script is not stored.")
    try:
        sandbox.check(sandbox.Language(script.language))
    except (sandbox.SandboxMissing, sandbox.InterpreterMissing) as error:
        raise Unwell(str(error)) from error
