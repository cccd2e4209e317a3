"""A private PostgreSQL and Valkey per test run, and the whole product as child processes on demand."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from config.engines import AlreadyRunning, Engines

if TYPE_CHECKING:
    from pytest_django.plugin import DjangoDbBlocker

    from tests.service import Service


def pytest_configure(config: pytest.Config) -> None:
    if engines := _engines(config):
        _sweep()
        engines.start()


def pytest_unconfigure(config: pytest.Config) -> None:
    if engines := _engines(config):
        engines.stop()
        shutil.rmtree(engines.data, ignore_errors=True)


# Modules without processes of their own that take long all the same.
LONG = frozenset(
    {
        "tests/agents/test_mcp_tool.py",
        "tests/bench/test_harness.py",
        "tests/config/test_supervisor.py",
        "tests/executions/test_against_reference.py",
        "tests/executions/test_blobs_in_s3.py",
        "tests/executions/test_model.py",
        "tests/executions/test_races.py",
    }
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules that take long come first, so that none is left to one process when the others are done."""
    long = {item.path for item in items if _is_long(item)}
    items.sort(key=lambda item: item.path not in long)


def _is_long(item: pytest.Item) -> bool:
    own = item.path.relative_to(item.config.rootpath).as_posix() in LONG
    return (
        own or "service" in getattr(item, "fixturenames", ()) or item.get_closest_marker("slow") is not None
    )


def _engines(config: pytest.Config) -> Engines | None:
    """This process's own engines; none if it uses other servers or no Django, or hands out the tests."""
    shares_out = config.getoption("numprocesses", None) and not hasattr(config, "workerinput")
    if shares_out or not config.pluginmanager.hasplugin("django"):
        return None
    from django.conf import settings

    engines: Engines | None = settings.TEST_ENGINES
    return engines


def _sweep() -> None:
    """Remove what test runs that were killed left behind; a live one holds its lock."""
    for folder in Path(tempfile.gettempdir()).glob("agentflow-tests-*"):
        engines = Engines(folder)
        try:
            engines.lock()
        except (AlreadyRunning, OSError):
            continue
        shutil.rmtree(folder, ignore_errors=True)
        engines.stop()


@pytest.fixture(scope="session")
def django_db_setup(django_test_environment: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """The test database.  pytest-django's own fixture makes none for a run whose tests use `service` only."""
    from django.test import TransactionTestCase
    from django.test.utils import setup_databases, teardown_databases

    from tests.emptying import empty

    with django_db_blocker.unblock():
        made = setup_databases(verbosity=0, interactive=False, serialized_aliases=set())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TransactionTestCase, "_fixture_teardown", lambda test: empty())
        yield
    with django_db_blocker.unblock():
        teardown_databases(made, verbosity=0)


@pytest.fixture(scope="module")
def service(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The real web, worker and clock, started once per module on the committed test database.

    The database is open to the module's tests without a `db` fixture (whose transaction the children
    could not see), is shared by them, and is emptied at the module's end: each test makes a workspace
    of its own.  Killed children stay dead until the test starts them again.
    """
    from django.conf import settings
    from django.db import connection

    from tests.emptying import empty
    from tests.service import Service, child_environment

    with django_db_blocker.unblock():
        environment = child_environment(connection.settings_dict, settings.REDIS_URL)
        running = Service(environment, tmp_path_factory.mktemp("service"))
        try:
            running.start()
            yield running
        finally:
            running.stop()
            empty()  # keys are not given twice: this process remembers versions by theirs
            connection.close()
            if settings.TEST_ENGINES is not None:  # else the broker may hold somebody's work
                redis.Redis(unix_socket_path=str(settings.TEST_ENGINES.valkey_socket)).flushall()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    running = getattr(item, "funcargs", {}).get("service")
    if report.failed and running is not None:
        for child in running.children.values():
            report.sections.append((f"log of {child.name}", child.tail()))
    return report
