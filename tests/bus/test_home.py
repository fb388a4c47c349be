"""The state directory is its owner's alone."""

from __future__ import annotations

import pytest

from trainbus.bus.home import Connection, private_directory, read_connection, write_atomically, write_connection
from trainbus.errors import UnreachableError


def test_everything_that_is_made_is_private(trainbus_home):
    """Also the state directory itself, when a folder inside it is the first thing needed."""
    made = private_directory(trainbus_home / "plugins" / "web")
    assert [path.stat().st_mode & 0o777 for path in (made, made.parent, trainbus_home)] == [0o700] * 3


def test_what_is_there_keeps_its_mode(tmp_path):
    """A directory that somebody made for us isn't changed."""
    tmp_path.chmod(0o750)
    private_directory(tmp_path / "inner")
    assert tmp_path.stat().st_mode & 0o777 == 0o750


def test_a_written_file_replaces_the_old_one_and_is_private(tmp_path):
    """No reader sees a part; nothing else is left in the directory."""
    path = tmp_path / "bus.json"
    path.write_bytes(b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_connection_reads_back():
    """What the broker announces is what a command finds (D10)."""
    connection = Connection(router="tcp://127.0.0.1:1", xpub="tcp://127.0.0.1:2", journal="j", pid=3)
    write_connection(connection)
    assert read_connection() == connection


def test_without_a_connection_file_the_hint_is_to_start_a_broker(trainbus_home):
    """The message names the directory that was looked into."""
    with pytest.raises(UnreachableError) as caught:
        read_connection()
    assert str(trainbus_home) in caught.value.problem
    assert "trainbus up" in caught.value.hint
