"""The embedded engines: started, killed, started again, by root and by nobody."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import redis

from config import engines as module
from config.engines import AlreadyRunning, EngineError, Engines, RunAs, command_of
from tests.waiting import PATIENCE_S, until

ROOT = Path(module.__file__).resolve().parent.parent
AS_ROOT = os.geteuid() == 0
OWNER = """
import sys, time
from pathlib import Path
from config.engines import Engines

engines = Engines(Path(sys.argv[1]))
engines.start()
print(engines.pid("postgres"), engines.pid("valkey"), flush=True)
time.sleep(600)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that others may pass: pytest's own are closed to `nobody`."""
    folder = Path(tempfile.mkdtemp(prefix="agentflow-engines-"))
    folder.chmod(0o711)
    yield folder / "home"
    shutil.rmtree(folder, ignore_errors=True)


def rows(engines: Engines) -> int:
    with psycopg.connect(engines.database_url()) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
        found = connection.execute("SELECT count(*) FROM kept").fetchone()
    return found[0] if found else 0


def broker(engines: Engines) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(engines.valkey_socket))


def test_what_was_stored_is_there_at_the_next_start(home: Path) -> None:
    for expected in (1, 2):
        with Engines(home) as engines:
            assert rows(engines) == expected
            assert broker(engines).incr("kept") == expected
    assert not engines.run_dir.exists()


def test_kill_9_of_both_loses_nothing(home: Path) -> None:
    with Engines(home) as engines:
        rows(engines)
        for name in ("postgres", "valkey"):
            os.kill(engines.pid(name), signal.SIGKILL)
        until(lambda: len(engines.dead()) == 2)
        for name in engines.dead():
            engines.restart(name)
        assert rows(engines) == 2
        assert broker(engines).ping()


def test_engines_end_with_an_owner_that_was_killed(home: Path) -> None:
    """By the system on Linux; by their pid files at the next start elsewhere."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(home)], cwd=ROOT, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert all(str(home) in command_of(pid) for pid in pids)
    owner.kill()
    owner.wait()
    owner.stdout.close()
    with Engines(home) as engines:
        assert rows(engines) == 1
        until(lambda: not any(str(home) in command_of(pid) for pid in pids))


def test_an_orphan_still_running_is_stopped_before_the_start(home: Path) -> None:
    with Engines(home):
        pass
    left = Engines(home)
    left.run_dir.mkdir(mode=0o700)
    binary = [
        *(module.valkey_binary(), "--port", "0", "--unixsocket", left.valkey_socket),
        *("--dir", home / "valkey", "--set-proc-title", "no"),
    ]
    orphan = subprocess.Popen([str(part) for part in binary], stdout=subprocess.DEVNULL)
    (home / "valkey" / "valkey.pid").write_text(f"{orphan.pid}\n")
    until(lambda: left.ready("valkey"))
    with Engines(home) as engines:
        assert orphan.wait(PATIENCE_S) is not None
        assert engines.ready("valkey")


def test_a_pid_that_another_program_has_by_now_is_left_alone(home: Path) -> None:
    with Engines(home):
        pass
    (home / "valkey" / "valkey.pid").write_text(f"{os.getpid()}\n")
    with Engines(home) as engines:
        assert engines.ready("valkey")


def test_a_second_owner_is_refused_and_may_attach(home: Path) -> None:
    assert Engines.attach(home) is None
    with Engines(home) as first:
        with pytest.raises(AlreadyRunning, match=str(os.getpid())):
            Engines(home).start()
        second = Engines.attach(home)
        assert second is not None
        second.stop()
        assert rows(first) == 1


def test_sockets_are_closed_to_others_and_no_port_is_open(home: Path) -> None:
    with Engines(home) as engines:
        assert engines.run_dir.stat().st_mode & 0o777 == 0o700
        with psycopg.connect(engines.database_url()) as connection:
            assert connection.execute("SHOW listen_addresses").fetchone() == ("",)
        assert broker(engines).config_get("port") == {"port": "0"}


def test_a_run_folder_of_somebody_else_is_refused(home: Path) -> None:
    engines = Engines(home)
    engines.run_dir.symlink_to(tempfile.gettempdir())
    try:
        with pytest.raises(EngineError, match="belongs to somebody else"):
            engines.start()
    finally:
        engines.run_dir.unlink()


def test_a_deep_folder_still_gets_a_short_socket_path(tmp_path: Path) -> None:
    assert len(str(Engines(tmp_path / ("d" * 120)).valkey_socket)) < module.SOCKET_PATH_MAX


def test_a_cluster_that_cannot_start_is_explained(home: Path) -> None:
    with Engines(home):
        pass
    (home / "postgres" / "PG_VERSION").write_text("9\n")
    with pytest.raises(EngineError) as caught:
        Engines(home).start()
    assert "PostgreSQL does not run here" in str(caught.value)
    assert "AGENTFLOW_DATABASE_URL" in str(caught.value)


def test_an_unfinished_first_start_is_done_again(home: Path) -> None:
    half = home / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with Engines(home, fast=True) as engines:
        assert rows(engines) == 1


@pytest.mark.skipif(not AS_ROOT, reason="only root has to become somebody else")
class TestAsRoot:
    def test_nobody_runs_postgres_where_user_namespaces_are_forbidden(self, home: Path) -> None:
        with Engines(home, run_as=RunAs.NOBODY) as engines:
            assert rows(engines) == 1
            assert (home / "postgres").stat().st_uid == module._uid("nobody")
            status = Path(f"/proc/{engines.pid('postgres')}/status")
            if status.exists():
                assert f"Uid:\t{module._uid('nobody')}" in status.read_text()

    def test_the_data_follows_when_the_way_changes(self, home: Path) -> None:
        for count, way in enumerate((RunAs.NOBODY, module.run_as_here(), RunAs.NOBODY), start=1):
            with Engines(home, run_as=way) as engines:
                assert rows(engines) == count

    def test_a_folder_nobody_cannot_reach_is_explained(self, home: Path) -> None:
        home.parent.chmod(0o700)
        with pytest.raises(EngineError, match=f"cannot pass {home.parent}"):
            Engines(home, run_as=RunAs.NOBODY).start()


def test_the_suite_runs_on_engines_of_its_own(db: None) -> None:
    from django.conf import settings
    from django.db import connection

    if settings.TEST_ENGINES is None:
        pytest.skip("the run was told to use other servers")
    with connection.cursor() as cursor:
        cursor.execute("SHOW fsync")
        assert cursor.fetchone() == ("off",)
