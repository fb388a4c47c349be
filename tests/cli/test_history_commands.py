"""tail, replay, runs and cursors against a real broker."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest

import trainbus
from tests.support import trainbus as command
from tests.support import wait_for
from trainbus.bus.broker.journal import Journal
from trainbus.bus.client import Client
from trainbus.cli import app
from trainbus.cli.history import last_events, offset_before, parse_since
from trainbus.cli.options import byte_size


def lines(text):
    return [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]


def test_tail_prints_the_last_events_in_order(a_run, capsys):
    """One line each; the very last is the end of the run."""
    assert app.run(["tail", "-n", "3"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in printed] == ["alert", "step", "run_ended"]
    assert "loss nan" in printed[1]


def test_tail_as_json_is_one_valid_object_a_line(a_run, capsys):
    """NaN is null, and said beside."""
    assert app.run(["tail", "--json", "--kind", "step", "-n", "2"]) == 0
    events = lines(capsys.readouterr().out)
    assert [event["step"] for event in events] == [9, 10]
    assert events[1]["metrics"] == {"loss": None}
    assert events[1]["not_finite"] == {"metrics.loss": "nan"}


def test_tail_since_begins_at_that_time(a_run, capsys):
    """By the times that the events are stamped with."""
    with Client() as client:
        events = list(client.events())
        middle = events[6]
        assert offset_before(client, middle.time, events[-1].offset) == max(one.offset for one in events if one.time < middle.time)
        assert offset_before(client, 0, events[-1].offset) == -1
        assert offset_before(client, events[-1].time + 1, events[-1].offset) == events[-1].offset
    assert app.run(["tail", "--json", "--since", "1h"]) == 0
    assert len(lines(capsys.readouterr().out)) == len(events)
    assert app.run(["tail", "--since", "0s"]) == 0
    assert capsys.readouterr().out == ""


def test_the_last_events_are_found_over_any_distance(a_run, monkeypatch):
    """Searching backwards in growing parts finds what a search of everything finds."""
    monkeypatch.setattr("trainbus.cli.history.FIRST_LOOK", 2)
    with Client() as client:
        head = client.status().head
        everything = [event.offset for event in client.events(kinds=["step"])]
        for count in (0, 1, 4, 10, 99):
            found = last_events(client, count, head, kinds=["step"], runs=[])
            assert [event.offset for event in found] == (everything[-count:] if count else [])


def test_tail_follows_without_a_seam(a_run):
    """Nothing between the last of the history and the first that comes is missing or twice."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainbus", "tail", "--follow", "--json", "--kind", "step", "-n", "4"], stdout=subprocess.PIPE, text=True
    )
    try:
        seen = [json.loads(process.stdout.readline())["step"] for _ in range(4)]
        with trainbus.init("second", run="second-1") as run:
            for step in range(11, 16):
                run.step(step, loss=1.0)
            run.flush(20)
            seen += [json.loads(process.stdout.readline())["step"] for _ in range(5)]
    finally:
        process.terminate()
        process.stdout.close()
        process.wait(180)
    assert seen == [7, 8, 9, 10, 11, 12, 13, 14, 15]


def test_replay_prints_the_whole_run(a_run, capsys):
    """In its order; the run may be named by the beginning of its id."""
    assert app.run(["replay", "first", "--json"]) == 0
    events = lines(capsys.readouterr().out)
    assert events[0]["kind"] == "run_started"
    assert events[-1]["kind"] == "run_ended"
    assert [event["offset"] for event in events] == sorted(event["offset"] for event in events)


def test_replay_with_speed_prints_the_same(a_run, capsys):
    """Speed changes pauses only."""
    assert app.run(["replay", a_run, "--json", "--speed", "1000000"]) == 0
    paced = capsys.readouterr().out
    assert app.run(["replay", a_run, "--json"]) == 0
    assert capsys.readouterr().out == paced


@pytest.mark.parametrize(
    "arguments", [["tail", "--run", "frist-1"], ["replay", "frist-1"], ["runs", "show", "frist-1"], ["runs", "delete", "frist-1"]]
)
def test_a_run_that_does_not_exist_is_answered_with_the_nearest(a_run, capsys, arguments):
    """Exit code 4, and the id that was meant."""
    assert app.run(arguments) == 4
    assert "Did you mean `first-1`?" in capsys.readouterr().err


def test_without_a_broker_commands_say_how_to_start_one(capsys):
    """Exit code 3, at once."""
    for arguments in (["tail"], ["runs", "list"], ["cursors", "list"], ["control", "pause"]):
        assert app.run(arguments) == 3
        assert "trainbus up" in capsys.readouterr().err


def test_runs_list_tells_state_and_step(a_run, capsys):
    """As a table and as JSON."""
    assert app.run(["runs", "list", "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)
    assert (run["run"], run["state"], run["last_step"], run["total_steps"]) == ("first-1", "completed", 10, 10)
    assert app.run(["runs", "list"]) == 0
    assert re.search(r"first-1 +first +completed +10 / 10", capsys.readouterr().out)
    assert app.run(["runs", "list", "--state", "failed"]) == 0
    assert "There is no such run." in capsys.readouterr().out


def test_runs_show_counts_and_lists_what_matters(a_run, capsys):
    """Kinds with their counts, the config, checkpoints and alerts."""
    assert app.run(["runs", "show", a_run, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert shown["kinds"]["step"] == 10
    assert shown["started"]["config"] == {"lr": 1e-4}
    assert [one["step"] for one in shown["checkpoints"]] == [9]
    assert app.run(["runs", "show", a_run]) == 0
    text = capsys.readouterr().out
    assert "The loss is NaN." in text
    assert "out/checkpoint-9" in text


def test_jsonl_on_stdout_is_the_run(a_run, capfdbinary):
    """The default of `runs export`: everything, a line each."""
    assert app.run(["runs", "export", a_run]) == 0
    events = lines(capfdbinary.readouterr().out.decode())
    assert [event["step"] for event in events if event["kind"] == "step"] == list(range(1, 11))


def test_csv_has_a_column_for_each_field(a_run, tmp_path):
    """Flat names; the ending of the file chooses the format."""
    file = tmp_path / "run.csv"
    assert app.run(["runs", "export", a_run, "-o", str(file)]) == 0
    with file.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["kind"] == "step"]
    assert [row["step"] for row in rows] == [str(step) for step in range(1, 11)]
    assert (rows[1]["metrics.loss"], rows[9]["metrics.loss"]) == ("5.0", "nan")


def test_parquet_keeps_types_and_nan(a_run, tmp_path, capsys):
    """Numbers are numbers, lists are JSON text, what an event lacks is null."""
    file = tmp_path / "run.data"
    assert app.run(["runs", "export", a_run, "--format", "parquet", "-o", str(file), "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    rows = pyarrow.parquet.read_table(file).to_pylist()
    assert written["events"] == len(rows)
    steps = [row for row in rows if row["kind"] == "step"]
    assert [row["step"] for row in steps] == list(range(1, 11))
    assert math.isnan(steps[9]["metrics.loss"])
    assert next(row for row in rows if row["kind"] == "alert")["evidence.loss"] == "[1.1]"
    assert rows[0]["metrics.loss"] is None


def test_an_export_never_overwrites_by_itself(a_run, tmp_path, capsys):
    """Nor leaves half a file: the old one is there until the new one is whole."""
    file = tmp_path / "run.jsonl"
    file.write_text("precious")
    assert app.run(["runs", "export", a_run, "-o", str(file)]) == 2
    assert file.read_text() == "precious"
    assert app.run(["runs", "export", a_run, "-o", str(file), "--force"]) == 0
    assert "precious" not in file.read_text()
    assert list(tmp_path.glob(".run*")) == []
    assert app.run(["runs", "export", a_run, "-o", str(tmp_path / "no" / "where.csv")]) == 2


def test_runs_delete_asks_first(a_run):
    """No answer is no; --yes is yes; afterwards the journal knows nothing of it."""
    refused = command("runs", "delete", a_run, input="n\n")
    assert refused.returncode == 130
    done = command("runs", "delete", a_run, "--yes", "--json")
    assert json.loads(done.stdout)["events"] == 14
    with Client() as client:
        assert client.runs() == []


def test_a_run_that_works_is_not_deleted(broker, capsys):
    """Unless forced."""
    with trainbus.init("busy", run="busy-1") as run:
        run.step(1, loss=1.0)
        run.flush(20)
        assert app.run(["runs", "delete", "busy-1", "--yes"]) == 4
        capsys.readouterr()


def test_cursors_are_listed_reset_and_dropped(a_run, capsys):
    """What a plugin has finished, and a way to let it see events again."""
    with Client() as client:
        head = client.status().head
        client.open_cursor("reader", "beginning")
        client.commit_cursor("reader", head - 2)
        client.add_dead_letter("reader", 3, 3, "it died")
    assert app.run(["cursors", "list", "--json"]) == 0
    (cursor,) = json.loads(capsys.readouterr().out)
    assert (cursor["consumer"], cursor["offset"], cursor["lag"], cursor["dead_letters"]) == ("reader", head - 2, 2, 1)
    assert app.run(["cursors", "dead-letters"]) == 0
    assert "it died" in capsys.readouterr().out
    assert app.run(["cursors", "reset", "reader", "--to", "1", "--yes"]) == 0
    assert "stands at offset 1" in capsys.readouterr().out
    assert app.run(["cursors", "drop", "raeder", "--yes"]) == 4
    assert "Did you mean `reader`?" in capsys.readouterr().err
    assert app.run(["cursors", "drop", "reader", "--yes"]) == 0
    with Client() as client:
        assert client.consumers() == []


def test_a_spool_that_was_left_behind_is_listed_and_drained(trainbus_home, request, capsys):
    """D4: events of a process that ended without a broker reach the journal by `trainbus spool drain`."""
    program = "import trainbus\nwith trainbus.init('lonely', run='lonely-1') as run:\n    run.step(1, loss=1.0)\n"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert app.run(["spool", "list", "--json"]) == 0
    (spool,) = json.loads(capsys.readouterr().out)
    assert (spool["run"], spool["held"]) == ("lonely-1", False)
    request.getfixturevalue("broker")
    assert app.run(["spool", "drain", "--json"]) == 0
    with Client() as client:
        wait_for(lambda: [run.run for run in client.runs()] == ["lonely-1"])
    capsys.readouterr()
    assert app.run(["spool", "list"]) == 0
    assert "No publisher" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("5m", 300), ("1.5h", 5400), ("2d", 172_800), ("1w", 604_800)])
def test_times_are_told_as_people_do(text, seconds):
    """A number and a unit, counted back from now."""
    now = 10**18
    assert parse_since(text, now) == now - seconds * 10**9


def test_what_is_no_time_says_what_is(capsys):
    """With examples."""
    assert app.run(["tail", "--since", "yesterday"]) == 2
    assert "2h" in capsys.readouterr().err


def test_journal_trim_forgets_what_it_says_beforehand(a_run, capsys):
    """Dry run, by run, by age, and once more when nothing is left; a consumer that had not read it is named and told."""
    path = str(Path(os.environ["TRAINBUS_HOME"]) / "journal.db")
    with Client() as client:
        client.open_cursor("slow")
        head = client.status().head
        assert app.run(["journal", "trim", "--run", "first", "--older-than", "0s", "--dry-run"]) == 0
        printed = capsys.readouterr()
        assert f"Would forget {head + 1} events of first-1 (offsets 0 to {head}" in printed.out
        assert "told by a gap event: slow" in printed.err
        assert client.status().events == head + 1
        assert app.run(["journal", "trim", "--run", "first", "--yes", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["done"], said["file"], said["trim"]["events"], said["trim"]["behind"]) == (True, path, head + 1, ["slow"])
        (gap,) = client.events()
        assert gap.reason.startswith("consumer slow had not read what run first-1 has")
        assert [run.last_step for run in client.runs() if run.run == "first-1"] == [10], "the summary stays"
        assert app.run(["journal", "trim", "--run", "first", "--yes"]) == 0
        assert "Nothing to forget" in capsys.readouterr().out


def test_journal_trim_asks_first_and_refuses_what_makes_no_sense(a_run, capsys):
    """Nothing is deleted without a word; sizes and times are explained where they are wrong."""
    for wrong in ([], ["--to-bytes", "1GB", "--run", "first"], ["--to-bytes", "many"], ["--older-than", "soon"]):
        assert app.run(["journal", "trim", *wrong]) == 2
        assert "--to-bytes" in (said := capsys.readouterr().err) or "30d" in said or "10m" in said
    assert app.run(["journal", "trim", "--older-than", "0s"]) != 0, "nobody answered the question"
    assert app.run(["journal", "trim", "--to-bytes", "1GB"]) == 0
    assert "Nothing to forget" in capsys.readouterr().out
    with Client() as client:
        assert client.status().events == client.status().head + 1


def test_journal_trim_does_not_touch_the_journal_of_another_bus(a_run, capsys, tmp_path, monkeypatch):
    """A token or an address may lead to a broker whose journal is not the file that was looked at."""
    here = Path(os.environ["TRAINBUS_HOME"])
    (there := tmp_path / "there").mkdir()
    shutil.copy(here / "bus.json", there / "bus.json")
    Journal(there / "journal.db").close()
    monkeypatch.setenv("TRAINBUS_HOME", str(there))
    with Client() as client:
        assert app.run(["journal", "trim", "--run", "first-1", "--yes"]) == 5
        assert "keeps its journal elsewhere" in capsys.readouterr().err
        assert client.status().events == client.status().head + 1


@pytest.mark.parametrize(
    ("text", "value"), [("1000", 1000), ("500MB", 500_000_000), ("1.5 GiB", 3 << 29), ("2k", 2000), ("1TB", 10**12), ("7B", 7)]
)
def test_sizes_are_written_as_people_write_them(text, value):
    """Decimal units, binary ones with an i, or bytes."""
    assert byte_size(text) == value
