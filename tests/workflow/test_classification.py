"""What counts as what: the tables of `classification`."""

from __future__ import annotations

import pytest

from agentflow.workflow import classification
from agentflow.workflow.failures import FailureKind

T, A, C = FailureKind.TRANSIENT, FailureKind.AGENT, FailureKind.CONFIGURATION


@pytest.mark.parametrize(
    ("status", "kind", "unfinished"),
    [
        (400, C, False),
        (401, C, False),
        (404, C, False),
        (408, T, False),
        (429, T, False),
        (500, T, True),
        (501, C, False),
        (502, T, True),
        (503, T, False),
        (504, T, True),
        (304, C, False),
    ],
)
def test_an_http_status(status: int, kind: FailureKind, unfinished: bool) -> None:
    found = classification.of_status(status)
    assert (found.kind, found.unfinished) == (kind, unfinished)


@pytest.mark.parametrize(
    ("code", "kind"), [(1, A), (None, A), (64, C), (75, T), (78, C), (126, C), (127, C), (137, A)]
)
def test_an_exit_code(code: int | None, kind: FailureKind) -> None:
    assert classification.of_exit(code) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), T),
        (ConnectionResetError(), T),
        (PermissionError(), C),
        (ModuleNotFoundError(), C),
        (ValueError(), A),
        (KeyError(), A),
        (OSError(), A),
    ],
)
def test_an_exception_by_its_nearest_class_that_is_known(error: Exception, kind: FailureKind) -> None:
    assert classification.of_exception(error) is kind


def test_what_a_model_or_an_mcp_server_says() -> None:
    assert classification.of_model("", "The context length is 8192.") == ("llm_context_too_long", C)
    assert classification.of_model("content_filter", "") == ("llm_content_filtered", A)
    assert classification.of_model("rate_limit_exceeded", "") is None
    assert classification.of_rpc(-32602) is C
    assert classification.of_rpc(-32000) is A
