from __future__ import annotations

import json
import os
import selectors
import shutil
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from pytest_django import Settings

from agentflow.agents.calls import Call
from agentflow.agents.invocation import invoke
from agentflow.governance.models import Workspace
from agentflow.integrations import sandbox
from agentflow.integrations.sandbox import Language, Mode, SandboxMissing
from agentflow.types import JSONObject, JSONValue
from tests.factories.agents import AgentFactory, ScriptFactory
from tests.servers import HttpServer, canary
from tests.waiting import PATIENCE_S, until

from .conftest import Invoke, failure_of, output_of


@cache
def bwrap_works() -> bool:
    return sandbox._bwrap_interpreter() is not None


@pytest.fixture(params=["bwrap", "process"])
def mode(request: pytest.FixtureRequest, settings: Settings) -> Mode:
    """Both ways to run a script; what is said of one holds for the other."""
    if request.param == "bwrap" and not bwrap_works():
        pytest.skip("bubblewrap does not work here: install it, and allow user namespaces")
    settings.AGENTFLOW_SANDBOX = request.param
    return Mode(request.param)


@pytest.fixture
def bwrap(settings: Settings) -> None:
    if not bwrap_works():
        pytest.skip("bubblewrap does not work here: install it, and allow user namespaces")
    settings.AGENTFLOW_SANDBOX = "bwrap"


@pytest.fixture
def script(workspace: Workspace, make_call: Callable[..., Call]) -> Callable[..., Call]:
    """Register a source and make the call that runs it."""

    def made(
        source: str,
        input: JSONValue = None,
        *,
        limit_s: float = 10.0,
        of_script: JSONObject | None = None,
        **fields: object,
    ) -> Call:
        of_script = {"source": source, "timeout_s": limit_s, **(of_script or {})}
        name = ScriptFactory.create(workspace=workspace, **of_script).name
        AgentFactory.create(
            workspace=workspace, agent_id=f"run-{name}", tool_type="Script", configuration={"script": name}
        )
        return make_call(f"run-{name}", input, **fields)

    return made


def test_json_goes_in_and_out_and_stderr_is_logged(mode: Mode, script: Callable[..., Call]) -> None:
    lines: list[tuple[str, str]] = []
    source = (
        "import json, os, sys\n"
        "given = json.load(sys.stdin)\n"
        "print('scoring', given['amount'], file=sys.stderr)\n"
        "print(json.dumps({'score': given['amount'] * 2, 'key': os.environ['AGENTFLOW_IDEMPOTENCY_KEY']}))\n"
    )
    call = script(source, {"amount": 21}, log=lambda level, line: lines.append((level, line)))
    assert output_of(invoke(call)) == {"score": 42, "key": "key-1"}
    assert lines == [("info", "scoring 21")]


def test_a_large_input_and_no_output_are_fine(mode: Mode, script: Callable[..., Call]) -> None:
    assert (
        output_of(invoke(script("import sys; assert len(sys.stdin.read()) > 200_000", "x" * 200_000))) is None
    )
    assert output_of(invoke(script("pass", "x" * 200_000))) is None  # it need not even read


class LateSelector(selectors.EpollSelector):
    """A machine so busy that whoever saw nothing to read is on again only when the script has ended."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(timeout)
        if not ready:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        return ready


def test_the_last_words_are_heard_on_a_busy_machine(
    mode: Mode, script: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = script("import time; time.sleep(0.3); print('\"heard\"')")
    sandbox.mode()
    monkeypatch.setattr(selectors, "DefaultSelector", LateSelector)
    assert output_of(invoke(call)) == "heard"


def test_the_environment_is_empty_of_ours(
    mode: Mode, script: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTFLOW_SECRET_KEY", "canary")
    found = output_of(invoke(script("import json, os; print(json.dumps(dict(os.environ)))")))
    assert set(found) <= {"PATH", "LANG", "LC_CTYPE", "HOME", "PWD", "AGENTFLOW_IDEMPOTENCY_KEY"}
    assert "canary" not in json.dumps(found)


def test_no_modules_of_ours_and_no_open_files_of_ours(mode: Mode, script: Callable[..., Call]) -> None:
    source = (
        "import json, os, sys\n"
        "found = [fd for fd in range(3, 64) if os.path.exists(f'/proc/self/fd/{fd}')]\n"
        "print(json.dumps([found, [p for p in sys.path if 'site-packages' in p]]))\n"
    )
    assert output_of(invoke(script(source))) == [[], []]


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("raise SystemExit(3)", "script_failed"),
        ("raise ValueError('bad order')", "script_failed"),
        ("print('{')", "script_not_json"),
        ("print('[' * 100_000)", "script_not_json"),
        ("print('NaN')", "output_not_json"),
        ("import os; os.kill(os.getpid(), 9)", "script_limit"),
        ("bytearray(2 * 1024**3)", "script_limit"),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", "script_limit"),
        ("import os\nwhile True: os.write(2, b'x' * 65536)", "script_limit"),
        ("open('big', 'wb').write(b'x' * 64 * 1024**2)", "script_failed"),
        ("held = [open('/dev/null') for _ in range(1000)]", "script_failed"),
    ],
)
def test_how_a_script_fails(mode: Mode, script: Callable[..., Call], source: str, code: str) -> None:
    assert failure_of(invoke(script(source))).code == code


NEEDS_NODE = pytest.mark.skipif(sandbox.interpreter(Language.NODE) is None, reason="Node.js is not installed")
SHELL, NODE = {"language": "shell"}, {"language": "node"}
READ = "const given = JSON.parse(require('fs').readFileSync(0, 'utf8'));"


@pytest.mark.parametrize(
    ("language", "source"),
    [
        (SHELL, 'given=$(cat); echo "got $given" >&2; echo "$given"'),
        pytest.param(
            NODE, READ + "console.error('got'); console.log(JSON.stringify(given))", marks=NEEDS_NODE
        ),
    ],
)
def test_other_languages_are_held_the_same_way(
    mode: Mode, script: Callable[..., Call], language: JSONObject, source: str
) -> None:
    lines: list[str] = []
    call = script(source, {"n": 1}, of_script=language, log=lambda level, line: lines.append(line))
    assert output_of(invoke(call)) == {"n": 1}
    assert len(lines) == 1


@pytest.mark.parametrize(
    ("language", "source", "code", "said"),
    [
        (SHELL, "echo bad order >&2; exit 3", "script_failed", "bad order"),
        (SHELL, "kill -9 $$", "script_limit", ""),
        pytest.param(NODE, "throw new Error('bad order')", "script_failed", "bad order", marks=NEEDS_NODE),
        pytest.param(
            NODE, "const a = []; for (;;) a.push(new Array(1e6).fill(1.5))", "script_limit", "",
            marks=NEEDS_NODE,
        ),
    ],
)  # fmt: skip
def test_how_scripts_in_other_languages_fail(
    mode: Mode, script: Callable[..., Call], language: JSONObject, source: str, code: str, said: str
) -> None:
    failure = failure_of(invoke(script(source, of_script={**language, "limits": {"memoryMb": 128}})))
    assert (failure.code, said in failure.message) == (code, True)


@NEEDS_NODE
def test_node_has_no_network_either(bwrap: None, script: Callable[..., Call]) -> None:
    source = "require('net').connect(80, '1.1.1.1').on('error', e => console.log(JSON.stringify(e.code)))"
    assert output_of(invoke(script(source, of_script=NODE))) == "ENETUNREACH"


def test_a_language_that_is_not_installed_is_said(
    script: Callable[..., Call], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.AGENTFLOW_SANDBOX = "process"
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    failure = failure_of(invoke(script("1", of_script=NODE)))
    assert (failure.kind, failure.code) == ("configuration", "interpreter_missing")


@pytest.mark.parametrize(
    ("limits", "source"),
    [
        ({"memoryMb": 64}, "bytearray(100 * 1024**2)"),
        ({"outputKb": 1}, "print('1' * 2000)"),
        ({"cpuSeconds": 0.1}, "while True: pass"),
    ],
)
def test_each_script_has_limits_of_its_own(
    mode: Mode, script: Callable[..., Call], limits: JSONObject, source: str
) -> None:
    assert failure_of(invoke(script(source, of_script={"limits": limits}))).code == "script_limit"


def test_input_and_output_are_held_against_the_scripts_schemas(script: Callable[..., Call]) -> None:
    schemas = {
        "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
        "output_schema": {"properties": {"total": {"type": "number"}}},
    }
    source = 'print(\'{"total": "many"}\')'
    failure = failure_of(invoke(script("raise SystemExit(9)", {"n": "x"}, of_script=schemas)))
    assert (failure.kind, failure.code) == ("configuration", "script_input_mismatch")
    assert failure.evidence["issues"][0]["pointer"] == "/n"
    failure = failure_of(invoke(script(source, {"n": 1}, of_script=schemas)))
    assert (failure.kind, failure.code) == ("agent", "script_output_mismatch")
    assert failure.outcome_unknown  # it ran
    assert failure.evidence["issues"][0]["pointer"] == "/total"


def test_a_network_needs_the_scripts_word_and_the_workspaces(
    bwrap: None, script: Callable[..., Call], workspace: Workspace, server: HttpServer
) -> None:
    server.on("/", lambda exchange: exchange.json(1))
    source = f"import urllib.request as u; print(u.urlopen('{server.url('/')}', timeout=2).read().decode())"
    asking = {"limits": {"network": True}}
    assert failure_of(invoke(script(source, of_script=asking))).code == "script_failed"
    workspace.script_network = True
    workspace.save()
    assert failure_of(invoke(script(source))).code == "script_failed"
    assert output_of(invoke(script(source, of_script=asking))) == 1


def test_the_last_words_are_evidence(mode: Mode, script: Callable[..., Call]) -> None:
    failure = failure_of(invoke(script("raise ValueError('bad order \\0')")))
    assert failure.kind == "agent"
    assert failure.message.endswith("ValueError: bad order \ufffd")
    assert failure.evidence["exitCode"] == 1


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "import time; time.sleep(600)",
        "import sys, time; sys.stdout.close(); sys.stderr.close(); time.sleep(600)",
        "import signal, time\nfor n in (2, 15): signal.signal(n, signal.SIG_IGN)\ntime.sleep(600)",
    ],
)
def test_time_is_limited_by_the_clock_on_the_wall(
    mode: Mode, script: Callable[..., Call], source: str
) -> None:
    failure = failure_of(invoke(script(source, limit_s=0.5)))
    assert (failure.kind, failure.code, failure.outcome_unknown) == ("transient", "timeout", True)


def test_a_cancel_ends_a_script(mode: Mode, script: Callable[..., Call]) -> None:
    call = script("import sys, time; print('here', file=sys.stderr, flush=True); time.sleep(600)", limit_s=60)
    running = threading.Event()
    object.__setattr__(call, "log", lambda level, line: running.set())

    def stop() -> None:
        running.wait(PATIENCE_S)
        call.cancel.cancel("user")

    threading.Thread(target=stop, daemon=True).start()
    assert failure_of(invoke(call)).code == "cancelled"


def test_a_cancel_that_comes_too_late_kills_nobody(
    mode: Mode, script: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = script("print(1)")
    assert output_of(invoke(call)) == 1
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda pid, number: killed.append(pid))
    call.cancel.cancel("user")
    assert killed == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give each run a user of its own")
def test_nothing_survives_the_script(mode: Mode, script: Callable[..., Call]) -> None:
    """Children in sessions of their own, with the pipes closed, outlive a process group's end."""
    marker = f"agentflow-orphan-{os.getpid()}-{mode}"
    source = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    for fd in (0, 1, 2): os.close(fd)\n"
        f"    os.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', '{marker}'])\n"
        "print(1)\n"
    )
    assert output_of(invoke(script(source))) == 1
    until(lambda: not _running(marker), why="the orphan's end")


def _running(marker: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if marker.encode() in (folder / "cmdline").read_bytes():
                found.append(folder.name)
        except OSError:
            continue
    return found


@pytest.mark.skipif(os.geteuid() != 0, reason="a user's other processes would count")
def test_a_fork_bomb_stays_small(mode: Mode, script: Callable[..., Call]) -> None:
    source = (
        "import json, os, time\n"
        "made = 0\n"
        "try:\n"
        "    while made < 1000:\n"
        "        if os.fork() == 0: time.sleep(600)\n"
        "        made += 1\n"
        "except OSError: pass\n"
        "print(made)\n"
    )
    assert output_of(invoke(script(source))) <= sandbox.USUAL.processes


def test_there_is_no_network(bwrap: None, script: Callable[..., Call]) -> None:
    source = (
        "import json, socket, sys\n"
        "reached = []\n"
        "for host in ('127.0.0.1', '::1', '1.1.1.1'):\n"
        "    try:\n"
        "        socket.create_connection((host, PORT), 1)\n"
        "        reached.append(host)\n"
        "    except OSError: pass\n"
        "print(json.dumps(reached))\n"
    )
    with canary() as bird:
        assert output_of(invoke(script(source.replace("PORT", str(bird.port))))) == []
    assert bird.visitors == []


def test_there_are_no_files_but_the_interpreters(bwrap: None, script: Callable[..., Call]) -> None:
    source = (
        "import json, os\n"
        "def works(act):\n"
        "    try: act(); return True\n"
        "    except OSError: return False\n"
        "print(json.dumps({\n"
        "    'root': sorted(os.listdir('/')),\n"
        "    'passwd': works(lambda: open('/etc/passwd')),\n"
        "    'here': works(lambda: os.listdir(HERE)),\n"
        "    'usr': works(lambda: open('/usr/x', 'w')),\n"
        "    'tmp': os.listdir('/tmp'),\n"
        "    'processes': len([name for name in os.listdir('/proc') if name.isdigit()]),\n"
        "    'user': os.getuid(),\n"
        "}))\n"
    ).replace("HERE", repr(os.getcwd()))
    found = output_of(invoke(script(source)))
    assert set(found.pop("root")) <= {
        "bin",
        "dev",
        "lib",
        "lib64",
        "proc",
        "tmp",
        "usr",
        "root",
        "opt",
        "home",
    }
    assert found == {"passwd": False, "here": False, "usr": False, "tmp": [], "processes": 2, "user": 65534}


def test_only_what_has_a_size_can_be_written(bwrap: None, script: Callable[..., Call]) -> None:
    source = (
        "import errno, json\n"
        "found = {}\n"
        "for path in ['/x', '/dev/x', '/usr/x', '/tmp/x', '/dev/shm/x']:\n"
        "    try:\n"
        "        for part in range(4):\n"
        "            with open(f'{path}{part}', 'wb') as file: file.write(bytes(500_000))\n"
        "        found[path] = 'written'\n"
        "    except OSError as error:\n"
        "        found[path] = errno.errorcode[error.errno]\n"
        "print(json.dumps(found))\n"
    )
    found = output_of(invoke(script(source, of_script={"limits": {"fileMb": 1}})))
    assert found == {
        "/x": "EROFS",
        "/dev/x": "EROFS",
        "/usr/x": "EROFS",
        "/tmp/x": "ENOSPC",
        "/dev/shm/x": "ENOSPC",
    }


def test_code_never_comes_from_a_template(call: Invoke, workspace: Workspace) -> None:
    source = {"script": "nobody", "source": "print(1)", "code": "print(1)"}
    failure = failure_of(call(None, tool_type="Script", configuration=source))
    assert (failure.kind, failure.code) == ("configuration", "unknown_script")
    foreign = ScriptFactory.create().name
    assert (
        failure_of(call(None, tool_type="Script", configuration={"script": foreign})).code == "unknown_script"
    )


def test_off_runs_nothing(script: Callable[..., Call], settings: Settings) -> None:
    settings.AGENTFLOW_SANDBOX = "off"
    failure = failure_of(invoke(script("print(1)")))
    assert (failure.kind, failure.code) == ("configuration", "sandbox_missing")


def test_bwrap_is_never_replaced_by_something_weaker(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    sandbox._bwrap_interpreter.cache_clear()
    try:
        settings.AGENTFLOW_SANDBOX = "bwrap"
        with pytest.raises(SandboxMissing):
            sandbox.mode()
        settings.AGENTFLOW_SANDBOX = "auto"
        assert sandbox.mode() is Mode.PROCESS
    finally:
        sandbox._bwrap_interpreter.cache_clear()
