"""Mistakes that people make, each as they make it: a clear message with file, key or line and the next step, an exit code, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys

import pytest

from tests.hosting.conftest import site as site
from tests.hosting.system import alive
from tests.support import trainbus, wait_for
from trainbus.bus.home import read_connection
from trainbus.bus.hosting.instance import read_running

MODEL = {"model_type": "qwen3", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8}
GOOD = '{"question": "1+1?", "answer": "2"}\n'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch, repository):
    """Commands run in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return tmp_path


@pytest.fixture
def up():
    """Runs `trainbus up --detach`; what it started is stopped at the end."""
    yield lambda *arguments: trainbus("up", "--detach", *arguments)
    trainbus("down")


def refused(*command: str, code: int, says: list[str], hint: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the command; it must fail with that exit code, in words that contain these, and with advice."""
    return judge(trainbus(*command), code=code, says=says, hint=hint)


def judge(done, *, code: int, says: list[str], hint: bool = True):
    words = " ".join(f"{done.stdout} {done.stderr}".split())
    assert "Traceback" not in words, words
    assert done.returncode == code, words
    assert [text for text in says if text not in words] == [], words
    assert not hint or "hint: " in done.stderr, words
    return done


# --- configuration --------------------------------------------------------------------------------------


def test_an_unknown_key_is_named_with_its_line_and_the_nearest_right_one(here):
    (here / "trainbus.toml").write_text("plugins = []\n[bus]\nflush_intervall = 0.1\n")
    for command in (["up"], ["config", "check"], ["config", "show"], ["train", "x.jsonl"]):
        refused(*command, code=2, says=["trainbus.toml:3", "`bus.flush_intervall`", "Did you mean `bus.flush_interval`?"])


def test_all_wrong_values_are_told_at_once_with_what_is_allowed(here):
    (here / "trainbus.toml").write_text('[bus]\nlost_after = "ten"\nrouter_port = 70000\n')
    says = ['trainbus.toml:2: `bus.lost_after` is "ten"', "trainbus.toml:3: `bus.router_port` is 70000", "at most 65,535"]
    refused("up", code=2, says=says)


def test_config_check_knows_the_sections_of_trainer_and_plugins_and_the_plugins_names(here):
    """Also those that `up` would only find when the plugin starts; nothing is started for it."""
    (here / "trainbus.toml").write_text('plugins = ["memroy"]\n[trainer]\nlearning_rat = 3\n[plugin.memory]\nintervall = 3\n')
    says = [
        "trainbus.toml:3: there is no setting `trainer.learning_rat`",
        'trainbus.toml:1: `plugins[0]` is "memroy"',
        "trainbus.toml:5: there is no setting `plugin.memory.intervall`",
    ]
    refused("config", "check", code=2, says=says)
    (here / "trainbus.toml").write_text('plugins = ["memory"]\n[plugin.memory]\ninterval = 3\n[plugin.elsewhere]\na = 1\n')
    fine = trainbus("config", "check")
    assert fine.returncode == 0
    assert "[plugin.elsewhere] is not used" in fine.stderr


def test_what_is_no_toml_is_named_with_its_line(here):
    (here / "trainbus.toml").write_text('plugins = ["memory"\n[bus]\n')
    refused("up", code=2, says=["trainbus.toml:2", "no TOML"])


def test_a_configuration_file_that_is_not_there_is_no_default(here):
    refused("up", "--config", "nix.toml", code=2, says=["no configuration file nix.toml", "trainbus init"])


@pytest.mark.parametrize(
    ("setting", "says"),
    [("bus.lost_afer=3", "Did you mean `bus.lost_after`?"), ("bus.lost_after", "KEY=VALUE"), ("bus.bind=7", "`bus.bind`")],
)
def test_a_wrong_override_is_named_as_it_was_typed(setting, says):
    refused("up", "--set", setting, code=2, says=[f"--set {setting}", says])


# --- broker ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "detach"), [("router_port", []), ("xpub_port", ["--detach"])], ids=["foreground", "detached"])
def test_a_port_in_use_is_named_with_its_key(trainbus_home, key, detach):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused("up", *detach, "--set", f"bus.{key}={port}", code=2, says=[f"port {port}", key, "is in use", "0 to let the system choose"])
    assert not (trainbus_home / "bus.json").exists()


def test_an_address_that_others_reach_is_refused_without_keys():
    refused("up", "--set", "bus.bind=0.0.0.0", code=2, says=["bind = '0.0.0.0'", "without keys", "127.0.0.1"])


def test_a_second_broker_and_a_second_up_name_the_first(up, trainbus_home):
    assert up().returncode == 0
    first = read_connection(trainbus_home)
    done = subprocess.run([sys.executable, "-m", "trainbus.bus.broker"], capture_output=True, text=True, timeout=60, check=False)
    judge(done, code=5, says=[f"process {first.pid}", "one broker runs for each journal", "trainbus status"], hint=False)
    for detach in ([], ["--detach"]):
        refused("up", *detach, code=4, says=[f"supervisor pid {first.supervisor}", "trainbus down"])
    assert read_connection(trainbus_home) == first


def test_a_journal_of_a_newer_version_is_left_as_it_is(up, trainbus_home):
    assert up().returncode == 0
    trainbus("down")
    journal = trainbus_home / "journal.db"
    connection = sqlite3.connect(journal)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    before = journal.read_bytes()
    for detach in ([], ["--detach"]):
        refused("up", *detach, code=5, says=["journal.db has schema version 99", "upgrade this one"])
    assert journal.read_bytes() == before


@pytest.mark.parametrize(
    "command",
    ["status", "runs list", "runs export r", "tail -n 1", "control stop r", "plugins restart web", "attach memory"],
)
def test_no_broker_is_told_with_how_to_start_one(command):
    refused(*command.split(), code=3, says=["No broker is known in", "trainbus up", "TRAINBUS_HOME"])


def test_a_dead_broker_is_told_at_once_with_its_process_id(up, trainbus_home):
    assert up().returncode == 0
    running, connection = read_running(trainbus_home), read_connection(trainbus_home)
    for pid in (running.pid, connection.pid):
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not alive(connection.pid))
    for command in (["status"], ["runs", "list"], ["attach", "memory"]):
        refused(*command, code=3, says=[f"process {connection.pid}", "is dead", "trainbus up"])


@pytest.mark.slow
def test_a_frozen_broker_is_told_with_how_to_look_at_it(up, trainbus_home):
    assert up().returncode == 0
    pid = read_connection(trainbus_home).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        refused("runs", "list", code=3, says=[f"process {pid}", "did not answer within 10.0 s", "logs"])
        status = trainbus("status")
        assert (status.returncode, "does not answer" in status.stdout) == (1, True)
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_connection_file_of_garbage_is_named(trainbus_home):
    trainbus_home.mkdir()
    (trainbus_home / "bus.json").write_text("garbage")
    refused("runs", "list", code=3, says=["bus.json can't be read", "Delete it"])


def test_a_home_that_can_not_be_one_is_named(trainbus_home):
    trainbus_home.write_text("a file")
    for command in ("up", "status", "down"):
        refused(command, code=1, says=[str(trainbus_home), "file is where a folder should be"])


# --- plugins --------------------------------------------------------------------------------------------


def test_a_plugin_that_is_not_installed_is_refused_before_anything_starts(here, trainbus_home):
    (here / "trainbus.toml").write_text('plugins = ["memroy"]\n')
    for detach in ([], ["--detach"]):
        done = refused("up", *detach, code=6, says=["no plugin named 'memroy'", "Did you mean 'memory'?", "Installed: "])
        assert done.stdout == ""
    assert not trainbus_home.exists()


def test_plugins_that_can_not_run_are_shown_with_the_reason_and_the_others_run(here, up, site):
    """One that does not import, one with a misspelt hook, one with a wrong setting (named with its line in the file)."""
    site.install("importing", "import surely_missing\nclass P: pass\n")
    site.install("misspelt", "class P:\n    @hookimpl\n    def on_setp(self): pass\n")
    (here / "trainbus.toml").write_text('plugins = ["importing", "misspelt", "memory", "anomaly"]\n\n[plugin.memory]\nintervall = 3\n')
    done = judge(
        up(),
        code=1,
        says=[
            "surely_missing",
            "no hook named 'on_setp'",
            "Did you mean 'on_step'?",
            "trainbus.toml:4",
            "Did you mean `plugin.memory.interval`?",
        ],
        hint=False,
    )
    assert " ".join(done.stdout.split()).count(" failed ") == 3
    status = json.loads(trainbus("status", "--json").stdout)
    assert {plugin["name"]: plugin["state"] for plugin in status["plugins"]} == {
        "importing": "failed",
        "misspelt": "failed",
        "memory": "failed",
        "anomaly": "running",
    }


@pytest.mark.parametrize(
    ("command", "code", "says"),
    [
        (["plugins", "add", "nix"], 6, "There is no plugin named 'nix'"),
        (["plugins", "restart", "nix"], 4, "No plugin named 'nix' is in use"),
        (["plugins", "remove", "nix"], 4, "No plugin named 'nix' is in use"),
    ],
)
def test_a_wrong_plugin_name_is_answered_with_the_right_ones(up, command, code, says):
    assert up().returncode == 0
    refused(*command, code=code, says=[says])


# --- runs, data, models ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [["runs", "show"], ["runs", "export"], ["runs", "delete", "--yes"], ["replay"], ["control", "stop"], ["tail", "--run"]],
    ids=" ".join,
)
def test_a_run_that_does_not_exist_is_told_with_the_nearest_one(a_run, command):
    refused(*command, "frist-1", code=4, says=["The journal knows no run 'frist-1'", "Did you mean `first-1`?"])
    refused(*command, "zzz", code=4, says=["The journal knows no run 'zzz'", "trainbus runs list"])


@pytest.fixture
def shape(here):
    """A fresh model's configuration."""
    (here / "shape.json").write_text(json.dumps(MODEL))
    return "config:shape.json"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"question": "1+1?", "answer": ', "not valid JSON"),
        pytest.param('{"question": "1+1?"}', "key 'answer'", marks=pytest.mark.slow),
        pytest.param("[1]", "a list where an object", marks=pytest.mark.slow),
    ],
)
def test_a_broken_line_of_training_data_is_named_by_its_number(here, shape, line, says):
    """Before anything is trained. The other ways to be broken are told by tests/trainer/test_data.py, without a process for each."""
    pytest.importorskip("torch")
    (here / "data.jsonl").write_text(GOOD + GOOD + line + "\n" + GOOD)
    refused("train", "data.jsonl", "--model", shape, "--max-steps", "1", code=7, says=["data.jsonl, line 3", says, "Mend or remove"])


def test_data_that_is_not_there_is_named():
    pytest.importorskip("torch")
    refused("train", "nix.jsonl", code=7, says=["no file nix.jsonl", "Check the path"])


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("empty", "empty is not a model: config.json is missing"),
        ("data.jsonl", "data.jsonl is not a model: it is a file"),
        ("./nowhere/model", "no model directory ./nowhere/model"),
        ("config:nix.json", "nix.json can't be read"),
        ("config:data.jsonl", "data.jsonl is no JSON object"),
    ],
)
def test_a_path_that_is_no_model_is_told_with_what_is_missing(here, model, says):
    pytest.importorskip("torch")
    (here / "empty").mkdir()
    (here / "data.jsonl").write_text(GOOD * 2)
    refused("train", "data.jsonl", "--model", model, "--max-steps", "1", code=8, says=[says])


@pytest.mark.slow
def test_a_model_of_an_unknown_type_is_told_in_one_sentence(here):
    """transformers lists all the types that it knows; nobody reads that."""
    pytest.importorskip("torch")
    (here / "odd.json").write_text('{"model_type": "qwen9"}')
    (here / "data.jsonl").write_text(GOOD * 2)
    done = refused("train", "data.jsonl", "--model", "config:odd.json", "--max-steps", "1", code=8, says=["odd.json", "qwen9"])
    assert len(done.stderr) < 1_000


@pytest.mark.slow
def test_an_output_that_is_a_file_is_named(here, shape):
    pytest.importorskip("torch")
    (here / "data.jsonl").write_text(GOOD * 2)
    says = ["data.jsonl can't be written", "File exists", "choose another --output"]
    refused("train", "data.jsonl", "--model", shape, "--output", "data.jsonl", "--max-steps", "1", code=8, says=says)
    assert (here / "data.jsonl").read_text() == GOOD * 2


# --- the command line itself ----------------------------------------------------------------------------


def test_wrong_commands_and_options_are_answered_with_the_right_ones():
    refused("stauts", code=2, says=["There is no command `stauts`", "Did you mean `status`?"])
    refused("up", "--detached", code=2, says=["--detached", "--detach", "trainbus up --help"])
    refused("train", "x", "--method", "magic", code=2, says=["'magic'", "lora", "qlora"])


def test_with_json_an_error_is_a_document_on_stdout():
    done = trainbus("runs", "list", "--json")
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "unreachable"
    assert error["problem"]
    assert error["hint"]
