from __future__ import annotations

import pytest

from agentflow.errors import InvalidInput
from agentflow.governance.egress import problem_with
from agentflow.governance.services.workspaces import create_workspace


@pytest.mark.parametrize(
    "entry",
    [
        "api.example.com",
        "api.example.com:8443",
        "*.example.com",
        "localhost",
        "127.0.0.1:9000",
        "[2001:db8::1]:443",
        "xn--bcher-kva.example",
        "API.example.com",
        "10.2.0.0/16",
        "fd00::/8",
        "[fd00::/8]:443",
        "::1",
    ],
)
def test_hosts_with_optional_ports_are_accepted(entry: str) -> None:
    assert problem_with(entry) is None


@pytest.mark.parametrize(
    "entry",
    [
        "",
        "*",
        "*.",
        "https://example.com",
        "example.com/path",
        "user@example.com",
        "bücher.example",
        "example.com:0",
        "example.com:99999",
        "a..b",
        "-a.example",
        "300.1.1.1",
        "10.0.0.0/99",
        "10.2.3.4/16",
        "x/24/1",
        "[zz::]",
        "exa mple.com",
        "foo.*.example.com",
        "a\nb",
        7,
        None,
    ],
)
def test_anything_else_is_refused(entry: object) -> None:
    assert problem_with(entry)


def test_a_workspace_with_a_bad_list_is_not_made(db: None) -> None:
    with pytest.raises(InvalidInput) as refusal:
        create_workspace(slug="w", name="W", by=None, egress_allow=["https://a.example", "ok.example", "*"])
    assert [issue["pointer"] for issue in refusal.value.issues] == ["/egress_allow"] * 2
