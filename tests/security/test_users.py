"""Two users of one server: what one has, the other can't read; who is invited comes in, and nobody else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

OWNER, OTHER = 61_001, 61_002
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")


class User:
    """One of `tests.security.users`, spoken to in lines."""

    def __init__(self, role: str, uid: int, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.security.users", role, str(uid), str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> dict:
        line = self.process.stdout.readline()
        assert line, "it ended"
        return json.loads(line)

    def ask(self, line: str) -> dict:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def does(self, deed: str, **arguments) -> dict:
        return self.ask(json.dumps({"deed": deed, **arguments}))

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def server():
    """A folder that everybody may look into, with a home for each of the two."""
    folder = Path(tempfile.mkdtemp(prefix="trainbus-users-"))  # pytest's own folders are shut for others
    folder.chmod(0o755)
    for name, uid in (("owner", OWNER), ("other", OTHER)):
        (folder / name).mkdir(mode=0o755)
        os.chown(folder / name, uid, uid)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def users(server):
    """Starts the two programs."""
    started = []

    def start(role, uid, folder):
        started.append(User(role, uid, folder))
        return started[-1]

    yield start
    for user in started:
        user.close()


@pytest.mark.timeout(300)
def test_another_user_reads_nothing_and_comes_in_only_with_an_invitation(users, server):
    """Home, keys, journal, spool and connection file are shut, whatever the umask is. A port of the machine can be found by anybody: with
    keys it is of no use. What a token allows, it allows from another account too.
    """
    home = server / "owner" / "home"
    owner = users("host", OWNER, home)
    addresses = owner.hear()
    other = users("guest", OTHER, server / "other")
    assert "result" in other.does("status", router=addresses["router"]), "without keys a port is everybody's, as the pages say"
    tokens = owner.ask("invite")
    files = [home, *home.rglob("*")]
    assert {"journal.db", "bus.json", "keys", "local.json", "spool"} <= {path.name for path in files}
    assert [path for path in files if path.stat().st_uid != OWNER or path.stat().st_mode & 0o077] == [], "also each for itself"
    for path in files:
        assert other.does("read", path=str(path)) == {"error": "PermissionError", "code": ""}, path
    assert other.does("status", router=addresses["router"])["error"] in ("UnreachableError", "RefusedError")
    theirs = str(server / "other" / "home")
    assert other.does("listen", home=theirs, token=tokens["observer"]) == {"result": ["mine-1"]}
    assert other.does("publish", home=theirs, token=tokens["observer"])["result"] is False, "an observer looks on"
    assert other.does("publish", home=theirs, token=tokens["publisher"]) == {"result": True}
    told = other.does("command_lines", user=OWNER)["result"]
    assert "tests.security.users" in told
    assert not any(token in told for token in tokens.values())
