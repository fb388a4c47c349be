"""`init`, `config` and `schema`, as processes see them."""

from __future__ import annotations

import json
import re

import jsonschema
import msgspec
import pytest

from trainbus.bus.config import BusConfig, Config
from trainbus.bus.config_file import load
from trainbus.bus.events import BY_KIND, Step
from trainbus.cli import app, output
from trainbus.cli.hardware import Hardware
from trainbus.cli.init import PLUGINS, template
from trainbus.trainer_node.config import TrainerConfig


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    directory = tmp_path / "work"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def test_init_writes_a_file_that_says_the_defaults_but_for_the_trainer(in_an_empty_directory):
    """A fresh file enables the plugins that run as they are (inference has to be told a server), and says what suits this machine."""
    assert app.run(["init"]) == 0
    config = load(environment={}).config
    assert config == Config(plugins=[name for name in PLUGINS if name != "inference"], trainer=config.trainer)
    trainer = msgspec.convert(config.trainer, TrainerConfig)
    assert trainer.batch_size * trainer.gradient_accumulation == 16
    assert app.run(["config", "check"]) == 0


def test_what_init_comments_out_is_allowed(in_an_empty_directory):
    """Each commented line can be uncommented as it stands."""
    text = re.sub(r"^#(?=[a-z_]+ = (?!\.\.\.))", "", template(Hardware()), flags=re.MULTILINE)
    (in_an_empty_directory / "trainbus.toml").write_text(text)
    loaded = load(environment={})
    assert loaded.config.bus == BusConfig()
    assert loaded.origin("bus.lost_after").source == "file"


def test_init_overwrites_only_when_forced(in_an_empty_directory, capsys):
    """A file with somebody's work in it is safe."""
    file = in_an_empty_directory / "trainbus.toml"
    file.write_text("# mine")
    assert app.run(["init"]) == 2
    assert "--force" in capsys.readouterr().err
    assert file.read_text() == "# mine"
    assert app.run(["init", "--force"]) == 0
    assert "plugins = [" in file.read_text()


def test_config_show_tells_where_each_value_came_from(in_an_empty_directory, capsys):
    """As JSON: key, value, source and where."""
    (in_an_empty_directory / "trainbus.toml").write_text("[bus]\nlost_after = 4\n")
    assert app.run(["config", "show", "--json", "--set", "bus.max_deliver=5"]) == 0
    settings = {row["key"]: row for row in json.loads(capsys.readouterr().out)["settings"]}
    assert settings["bus.lost_after"] == {"key": "bus.lost_after", "value": 4.0, "source": "file", "where": "trainbus.toml:2"}
    assert settings["bus.max_deliver"]["source"] == "--set"
    assert settings["bus.bind"]["source"] == "default"


def test_config_check_fails_with_every_mistake(in_an_empty_directory, capsys):
    """Exit code 2, and a list that a script can read."""
    (in_an_empty_directory / "trainbus.toml").write_text("[bus]\nlost_after = -4\nx = 1\n")
    assert app.run(["config", "check", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert [mistake["key"] for mistake in error["mistakes"]] == ["bus.lost_after", "bus.x"]


def test_config_path_without_a_file_says_how_to_get_one(capsys):
    """Exit code 2 and `trainbus init`."""
    assert app.run(["config", "path"]) == 2
    assert "trainbus init" in capsys.readouterr().err


@pytest.mark.parametrize("kind", BY_KIND)
def test_the_schema_of_a_kind_accepts_its_events(kind, capsys):
    """What a JSON edge writes of an event satisfies the schema, also NaN."""
    assert app.run(["schema", kind]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    event = BY_KIND[kind](run="r", source="s", seq=1, time=2, offset=3)
    jsonschema.validate(json.loads(output.json_line(event)), schema, cls=jsonschema.Draft202012Validator)


def test_the_schema_of_all_kinds_tells_them_apart(capsys):
    """One document for all; a wrong field or an unknown kind doesn't pass."""
    assert app.run(["schema"]) == 0
    validator = jsonschema.Draft202012Validator(json.loads(capsys.readouterr().out))
    assert validator.is_valid(json.loads(output.json_line(Step(step=1, metrics={"loss": float("nan")}))))
    assert not validator.is_valid({"kind": "step", "step": "one"})
    assert not validator.is_valid({"kind": "stp"})


def test_an_unknown_kind_is_answered_with_the_nearest(capsys):
    """Exit code 2."""
    assert app.run(["schema", "stp"]) == 2
    assert "Did you mean `step`?" in capsys.readouterr().err
