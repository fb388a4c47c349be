"""The sink of Trackio, in a process of its own: Trackio learns its folder when it is imported, and imports for seconds."""

import json
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
from pathlib import Path
from tests.plugins.sinks.conftest import Bus, story
from tests.plugins.sinks.test_sinks_peers import killed_at_random
from trainbus.plugins.sinks.trackio import TrackioSink

folder = Path(sys.argv[1])
one = Bus(TrackioSink, folder, {"directory": str(folder / "trackio"), "project": "lab"}).start()
if sys.argv[2] == "story":
    one.publish(*story())
    one.write()
else:
    killed_at_random(one, 5)
assert one.stats.failures == 0

from trackio.sqlite_storage import SQLiteStorage

print(json.dumps({
    "logs": SQLiteStorage.get_logs("lab", "r-1"),
    "config": SQLiteStorage.get_run_config("lab", "r-1"),
    "alerts": SQLiteStorage.get_alerts("lab"),
    "files": [path.name for path in (folder / "trackio").glob("*.db")],
}))
"""


def run(tmp_path, what):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), what]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.slow
def test_trackio_reads_rows_configuration_and_alerts_back(tmp_path):
    """From its own database, by its own storage."""
    found = run(tmp_path, "story")
    assert found["files"] == ["lab.db"]
    rows = [row for row in found["logs"] if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[2]["loss"] != rows[2]["loss"]
    assert [row["eval/gsm8k/accuracy"] for row in found["logs"] if "eval/gsm8k/accuracy" in row] == [0.5]
    assert found["config"]["model"] == {"name": "tiny", "layers": 2}
    assert [(alert["title"], alert["level"], alert["step"]) for alert in found["alerts"]] == [("nan", "error", 3)]


@pytest.mark.slow
def test_trackio_has_each_row_once_through_kills(tmp_path):
    """By the ids of its rows."""
    found = run(tmp_path, "kills")
    assert [row["step"] for row in found["logs"] if "loss" in row] == list(range(1, 61))
