"""Settings of all tests: hypothesis profiles, selection of end-to-end tests, short directories.

A test marked ``e2e`` needs a real container runtime. Where the machine lacks one it is skipped,
with the reason; with ``CRIPROXY_E2E=required`` in the environment it fails instead.

Property tests try the same few examples on each run, without a limit on their time. With
``CRIPROXY_FUZZ_EXAMPLES`` in the environment (``make fuzz-properties``) they try that many random
ones.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.support.containerd import missing
from tests.support.requirements import require

EXAMPLES = 60
"""How many examples a property test tries, unless it takes a multiple of that."""
FUZZ_EXAMPLES = os.environ.get("CRIPROXY_FUZZ_EXAMPLES")

settings.register_profile(
    "test",
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile(
    "fuzz",
    settings.get_profile("test"),
    max_examples=int(FUZZ_EXAMPLES or EXAMPLES),
    derandomize=False,
)
settings.load_profile("fuzz" if FUZZ_EXAMPLES else "test")

# A shell has the commands that it runs in the background ignore SIGINT, and these would hand that
# on to the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def session_dir() -> Iterator[Path]:
    """A directory for the whole run whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="crp-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory for one test whose path leaves room for a socket's name."""
    path = Path(tempfile.mkdtemp(prefix="crp-"))
    yield path
    shutil.rmtree(path)


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # xdist is not annotated
    """Gives each worker test by test, and one of them all that share a containerd."""

    def _split_scope(self, nodeid: str) -> str:
        return "e2e" if nodeid.startswith("tests/e2e/") else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


class FailureNames:
    """Writes the name of each test as it fails: a run that is ended at a limit has no summary."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\nfailed: {report.nodeid} ({report.when})")


def pytest_sessionstart(session: pytest.Session) -> None:
    plugins = session.config.pluginmanager
    terminal = plugins.get_plugin("terminalreporter")
    if terminal is not None:  # not in a worker of xdist
        plugins.register(FailureNames(terminal))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("e2e") is not None:
        require(missing())
