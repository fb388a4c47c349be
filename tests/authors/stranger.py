"""The environment of somebody who has installed trainbus with pip, and nothing of the repository."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

SHIM = """#!/bin/sh
exec '{python}' -m {module} "$@"
"""


class Stranger:
    """A virtual environment: trainbus as a wheel of this tree, its dependencies from the environment that runs the tests.

    Its `pip` needs no network: what it may not find here, it may not need.
    """

    def __init__(self, folder: Path, repository: Path) -> None:
        self.folder = folder
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.bin = folder / "venv" / "bin"
        self.python = str(self.bin / "python")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        site = folder / "venv" / "lib" / version / "site-packages"
        (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
        for module in ("pip", "pytest"):
            (self.bin / module).write_text(SHIM.format(python=self.python, module=module))
            (self.bin / module).chmod(0o755)
        self.run("pip", "install", "--quiet", str(repository))

    def environment(self, home: Path | None = None) -> dict[str, str]:
        """Variables of a shell in which it is activated."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("TRAINBUS_", "PYTHON", "PIP_"))}
        offline = {"PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        made = {**kept, **offline, "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "VIRTUAL_ENV": str(self.folder / "venv")}
        return made if home is None else {**made, "TRAINBUS_HOME": str(home)}

    def run(
        self, *command: str, home: Path | None = None, cwd: Path | None = None, ok: bool = True, timeout: float = 100.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the stranger would; with ``ok``, it must succeed."""
        result = subprocess.run(
            command, env=self.environment(home), cwd=cwd or self.folder, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert result.returncode == 0 or not ok, f"{' '.join(command)}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result
