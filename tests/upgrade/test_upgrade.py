"""What an older version has left opens; what a newer one has left is refused, untouched, with what to do."""

from __future__ import annotations

import shutil
import sqlite3
import struct

import msgspec
import pytest

from tests.support import trainbus, wait_for
from tests.upgrade.examples import SPOOLED, STEPS, stored
from trainbus.bus.broker import schema
from trainbus.bus.client import Client
from trainbus.bus.config_file import load
from trainbus.bus.drain import spools
from trainbus.bus.events import Step
from trainbus.bus.publisher import Publisher


@pytest.fixture(params=range(1, schema.SCHEMA + 1))
def older(request, trainbus_home):
    """The home that a version with this format has left."""
    archive = stored(request.param)
    assert archive.is_file(), "run: python -m tests.upgrade.examples"
    shutil.unpack_archive(archive, trainbus_home.parent)
    return trainbus_home


@pytest.fixture
def up():
    """Starts a bus without plugins; it is stopped at the end."""
    yield lambda *options: trainbus("up", "--detach", "--plugins", "", *options)
    trainbus("down")


def test_an_older_home_goes_on_where_it_was(older, up):
    """History, cursor with state, dead letter, command and lease are there; the spool is drained; the same journal grows."""
    started = up()
    assert started.returncode == 0, started.stderr
    with Client(root=older) as client:
        steps = [event.step for event in client.events(kinds=("step",), runs=("r",))]
        assert steps == list(range(STEPS))
        cursor = client.open_cursor("plugin:anomaly")
        assert (cursor.offset, msgspec.msgpack.decode(cursor.state["seen"])) == (9, {"steps": 10})
        assert [letter.offset for letter in client.dead_letters()] == [3]
        assert [event.verb for event in client.events(kinds=("command",))] == ["save"]
        assert isinstance(client.leases(), list)
        wait_for(lambda: len(list(client.events(runs=("orphan",), kinds=("step",)))) == SPOOLED, 60.0, what="the spool is drained")
        publisher = Publisher("r", root=older)
        publisher.publish(Step(step=STEPS))
        assert publisher.close(60.0)
        assert client.status().head > STEPS
    assert trainbus("journal", "check").returncode == 0


def test_an_older_configuration_is_read(older):
    """Every key that it holds still has its meaning."""
    config = load(older / "trainbus.toml", environment={}).config
    assert config.bus.lost_after == 30
    assert "retention" in config.plugins
    assert trainbus("config", "check", "--config", str(older / "trainbus.toml")).returncode == 0


def test_a_newer_journal_is_refused_and_untouched(older, up):
    """Exit code 5, which systemd does not try again; the way out is named. So do the commands that only look."""
    file = older / "journal.db"
    connection = sqlite3.connect(file)
    connection.execute(f"PRAGMA user_version={schema.SCHEMA + 1}")
    connection.close()
    before = file.read_bytes()
    for answer in (up(), trainbus("journal", "show"), trainbus("journal", "backup", str(older / "copy.db"))):
        assert answer.returncode == 5
        assert f"schema version {schema.SCHEMA + 1}" in answer.stderr
        assert "upgrade this one" in answer.stderr
        assert "Traceback" not in answer.stderr
    assert file.read_bytes() == before


def test_a_setting_of_a_newer_version_is_refused_by_name(older):
    """Exit code 2 with file, line and key, and what this version knows."""
    file = older / "trainbus.toml"
    file.write_text(file.read_text().replace("lost_after = 30", "lost_after = 30\nquantum_fanout = true"))
    refused = trainbus("up", "--config", str(file))
    assert refused.returncode == 2
    assert "quantum_fanout" in refused.stderr
    assert f"{file}:5" in refused.stderr


def test_a_spool_of_a_newer_version_stays_for_it(older, up):
    """It is named, not sent and not deleted, and hinders nobody."""
    meta = older / "spool" / "left" / "meta"
    content = meta.read_bytes()
    meta.write_bytes(content[:7] + struct.pack("B", content[7] + 1) + content[8:])
    assert up().returncode == 0
    (found,) = [one for one in spools(older) if one.path.name == "left"]
    assert "another version" in found.problem
    with Client(root=older) as client:
        assert list(client.events(runs=("orphan",))) == []
    assert meta.exists()
