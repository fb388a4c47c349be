"""Two machines on one: network namespaces joined by a cable (a veth pair) that can be cut and made slow."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator

SERVER, LAPTOP = "10.77.0.1", "10.77.0.2"


class Cable:
    """The namespaces ``server`` and ``laptop``, each with one end."""

    def __init__(self) -> None:
        tag = f"tb{os.getpid() % 100000}"
        self.server, self.laptop = f"{tag}s", f"{tag}l"
        self._ends = f"{tag}a", f"{tag}b"

    def lay(self) -> None:
        """Make both namespaces and join them."""
        for space in (self.server, self.laptop):
            run("ip", "netns", "add", space)
        run("ip", "link", "add", self._ends[0], "type", "veth", "peer", "name", self._ends[1])
        for space, end, address in ((self.server, self._ends[0], SERVER), (self.laptop, self._ends[1], LAPTOP)):
            run("ip", "link", "set", end, "netns", space)
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", end)
            run("ip", "-n", space, "link", "set", end, "up")
            run("ip", "-n", space, "link", "set", "lo", "up")

    def cut(self) -> None:
        """Nothing passes, and nobody is told."""
        run("ip", "-n", self.laptop, "link", "set", self._ends[1], "down")

    def mend(self) -> None:
        run("ip", "-n", self.laptop, "link", "set", self._ends[1], "up")

    def delay(self, milliseconds: int) -> bool:
        """Each packet to the server takes so long; False where the kernel can't do that."""
        command = ["tc", "-n", self.laptop, "qdisc", "add", "dev", self._ends[1], "root", "netem", "delay", f"{milliseconds}ms"]
        return shutil.which("tc") is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0

    def take_away(self) -> None:
        for space in (self.server, self.laptop):
            subprocess.run(["ip", "netns", "del", space], capture_output=True, check=False)


def run(*command: str) -> None:
    """A command that must succeed."""
    subprocess.run(command, check=True, capture_output=True)


def missing() -> str:
    """Why there can be no namespaces here; empty when there can."""
    if shutil.which("ip") is None:
        return "no `ip` (iproute2)"
    cable = Cable()
    try:
        cable.lay()
    except subprocess.CalledProcessError as error:
        return f"network namespaces are not allowed here: {error.stderr.decode().strip()}"
    finally:
        cable.take_away()
    return ""


@contextlib.contextmanager
def laid() -> Iterator[Cable]:
    """A cable for a test."""
    cable = Cable()
    try:
        cable.lay()
        yield cable
    finally:
        cable.take_away()
