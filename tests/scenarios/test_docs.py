"""What the documentation shows is what happens: its commands run beside the demo, its JSON is accepted."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from django.core.management import call_command

from agentflow.workflow import validation
from agentflow.workflow.parsing import parse
from tests.service import Service, free_port

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for _, text in found]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def having(language: str) -> list[Path]:
    return [page for page in PAGES if blocks(page, language)]


@pytest.fixture(scope="module")
def home(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the demo of the running service in it."""
    home, port = tmp_path_factory.mktemp("home"), str(free_port())
    environment = {
        "AGENTFLOW_HOME": str(home),
        "AGENTFLOW_DEMO_PORT": port,
        "AGENTFLOW_BASE_URL": service.base_url,
    }
    service.start_command("shop", "demo_service", says="ready", **environment)
    with pytest.MonkeyPatch.context() as patch:
        from django.conf import settings

        patch.setattr(settings, "AGENTFLOW_HOME", home, raising=False)
        patch.setattr(settings, "AGENTFLOW_DEMO_PORT", int(port), raising=False)
        patch.setattr(settings, "AGENTFLOW_BASE_URL", service.base_url, raising=False)
        call_command("load_demo", verbosity=0)
    return home


@pytest.mark.slow
@pytest.mark.parametrize("page", having("sh"), ids=name_of)
def test_commands_run_as_they_stand(home: Path, page: Path) -> None:
    if not all(map(shutil.which, ("bash", "curl", "jq"))):
        pytest.skip("needs bash, curl and jq")
    ran = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", "\n".join(blocks(page, "sh"))],
        env={**os.environ, "AGENTFLOW_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said
    assert "urn:agentflow:problem" not in said


@pytest.mark.slow
def test_the_websocket_client_runs_as_it_stands(home: Path) -> None:
    (program,) = blocks(ROOT / "docs/websocket.md", "python")
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "AGENTFLOW_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "'type': 'hello'" in ran.stdout, ran.stderr


@pytest.mark.parametrize("page", having("json"), ids=name_of)
def test_definitions_are_accepted(page: Path) -> None:
    for text in blocks(page, "json"):
        shown = json.loads(text)
        if "blockId" in shown:
            before = [{"blockId": block_id} for block_id in shown.get("dependencies", ())]
            shown = {"name": "One block", "blocks": [*before, shown]}
        if "blocks" in shown:
            assert validation.check(parse(shown)) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link
