"""What every test gets: a state directory of its own, and no configuration from outside."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Helpers whose assertions judge: without this a failure does not show the two values.
pytest.register_assert_rewrite(*(f"tests.{path.stem}" for path in Path(__file__).parent.iterdir() if path.stem != "conftest"))


def pytest_configure():
    """A shell starts jobs in the background with SIGINT ignored, and children inherit that: Ctrl-C could not be tested then."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def trainbus_home(tmp_path, monkeypatch):
    """TRAINBUS_HOME, which subprocesses inherit; no setting of the machine shines through."""
    for name in [name for name in os.environ if name.startswith("TRAINBUS_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("TRAINBUS_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def repository():
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data():
    """Real data beside the repository; tests that need it are skipped elsewhere."""
    data = ROOT.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip("no shared data: ../shared/data is missing beside the repository")
    return data
