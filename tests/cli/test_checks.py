"""What `trainbus doctor` finds, and how it says to mend it."""

from __future__ import annotations

import socket

import pytest

from trainbus.bus.home import Connection, connection_file, private_directory, write_connection
from trainbus.cli import checks


def test_a_home_that_is_not_there_yet_is_all_right(trainbus_home):
    """It is made when something needs it."""
    finding = checks.home_directory()
    assert finding.state == "ok"
    assert "made when it is first needed" in finding.found


def test_a_home_that_others_can_read_is_a_warning(trainbus_home):
    """With the command that closes it."""
    private_directory(trainbus_home).chmod(0o755)
    finding = checks.home_directory()
    assert (finding.state, finding.mend) == ("warn", f"chmod 700 {trainbus_home}")


def test_a_home_that_is_a_file_fails(trainbus_home):
    """Nothing could be written there."""
    trainbus_home.write_text("")
    assert checks.home_directory().state == "fail"


def test_without_a_broker_doctor_says_how_to_start_one():
    """A warning: training works without."""
    finding = checks.broker()
    assert finding.state == "warn"
    assert "trainbus up" in finding.mend


def test_a_connection_file_that_cannot_be_read_fails():
    """It names the file."""
    connection_file().parent.mkdir()
    connection_file().write_text("no json")
    assert checks.broker().state == "fail"


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_broker_that_listens_is_all_right(listening):
    """Address and process are named."""
    write_connection(Connection(router=f"tcp://127.0.0.1:{listening}", xpub="", journal="j", pid=42))
    finding = checks.broker()
    assert finding.state == "ok"
    assert "process 42" in finding.found


def test_a_broker_that_died_without_a_word_fails():
    """Its file is there, its port is closed."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    write_connection(Connection(router=f"tcp://127.0.0.1:{port}", xpub="", journal="j", pid=42))
    finding = checks.broker()
    assert finding.state == "fail"
    assert "trainbus up" in finding.mend


def test_a_wrong_configuration_fails_with_its_mistake(tmp_path, monkeypatch):
    """The same words as `trainbus config check`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trainbus.toml").write_text("[bus]\nlost_afer = 1\n")
    finding = checks.configuration()
    assert finding.state == "fail"
    assert "bus.lost_after" in finding.found


def test_a_missing_extra_is_a_warning_with_its_install_command(monkeypatch):
    """A machine that only watches needs few of them."""
    monkeypatch.setitem(checks.EXTRAS, "parquet", ("no-such-package",))
    finding = next(one for one in checks.extras() if one.check == "extra parquet")
    assert finding.state == "warn"
    assert "trainbus[parquet]" in finding.mend


def test_spools_left_behind_are_named():
    """With the command that sends them."""
    finding = checks.orphans(lambda _home: [("run-a", 1024**2), ("run-b", 1024**2)])
    assert finding.state == "warn"
    assert "2 left behind (2.0 MiB) by run-a, run-b" in finding.found
    assert checks.orphans(lambda _home: []).state == "ok"
