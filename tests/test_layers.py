"""Who may import whom."""

from __future__ import annotations

import subprocess
import sys


def test_the_layers_hold(repository):
    """The import-linter contracts of pyproject.toml, as `make check` runs them."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=repository)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout
