"""`trainbus demo`: the whole of it, shorter."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.timeout(420)
def test_the_demo_trains_breaks_things_and_counts_that_nothing_was_lost(tmp_path):
    """Five plugins, a kill, a learning-rate fault, an examined and a deleted checkpoint; the exit code says that all checks held."""
    options = ["--exit", "--json", "--steps", "120", "--base-steps", "40", "--directory", str(tmp_path / "demo")]
    command = [sys.executable, "-m", "trainbus", "demo", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    account = json.loads(done.stdout)
    assert account["steps"] == 120
    assert account["published"] == account["journaled"] == account["delivered"] > 120
    assert (account["lost"], account["duplicated"], account["gaps"]) == (0, 0, 0)
    assert [line["plugin"] for line in account["plugins"]] == ["anomaly", "retention", "memory", "web", "inference"]
    assert {line["plugin"] for line in account["plugins"] if line["restarts"]} == {"retention"}
    assert all(check["ok"] for check in account["checks"]), account["checks"]


def test_a_directory_with_something_in_it_is_refused(tmp_path):
    """The demo never writes among somebody's files."""
    (tmp_path / "mine").touch()
    command = [sys.executable, "-m", "trainbus", "demo", "--exit", "--directory", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "is not empty" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
