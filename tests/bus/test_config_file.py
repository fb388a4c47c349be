"""The configuration: which value wins, and what a person is told about a wrong one."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from trainbus.bus.config import BusConfig, Config
from trainbus.bus.config_docs import toml_value
from trainbus.bus.config_file import find, key_lines, load, parse_value, split_key, validate_section
from trainbus.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def _write(text):
        path = tmp_path / "trainbus.toml"
        path.write_text(text)
        return path

    return _write


def refused(call, *arguments, **keywords):
    with pytest.raises(ConfigError) as caught:
        call(*arguments, **keywords)
    return caught.value


def test_without_a_file_the_defaults_hold(tmp_path, monkeypatch):
    """No file is no mistake: everything has a default."""
    monkeypatch.chdir(tmp_path)
    loaded = load(environment={})
    assert loaded.file is None
    assert loaded.config == Config()
    assert loaded.origin("bus.lost_after").source == "default"


def test_set_beats_environment_beats_file_beats_default(write):
    """Each layer wins over those before it, and `origin` tells which one did."""
    path = write("[bus]\nlost_after = 1\nstuck_after = 1\nmax_deliver = 1\n")
    environment = {"TRAINBUS__BUS__STUCK_AFTER": "2", "TRAINBUS__BUS__MAX_DELIVER": "2"}
    loaded = load(path, overrides=["bus.max_deliver=3"], environment=environment)
    bus = loaded.config.bus
    assert (bus.heartbeat_interval, bus.lost_after, bus.stuck_after, bus.max_deliver) == (1.0, 1.0, 2.0, 3)
    sources = [loaded.origin(f"bus.{key}").source for key in ("heartbeat_interval", "lost_after", "stuck_after", "max_deliver")]
    assert sources == ["default", "file", "environment", "--set"]
    assert loaded.origin("bus.lost_after").where == f"{path}:2"
    assert loaded.origin("bus.stuck_after").where == "TRAINBUS__BUS__STUCK_AFTER"


def test_the_file_is_the_named_one_then_the_variable_then_the_directory(tmp_path, monkeypatch):
    """--config beats TRAINBUS_CONFIG beats ./trainbus.toml."""
    monkeypatch.chdir(tmp_path)
    here, named, variable = tmp_path / "trainbus.toml", tmp_path / "a.toml", tmp_path / "b.toml"
    for path in (here, named, variable):
        path.write_text("")
    assert find(named, environment={"TRAINBUS_CONFIG": str(variable)}) == named
    assert find(environment={"TRAINBUS_CONFIG": str(variable)}) == variable
    assert find(environment={}).resolve() == here


def test_a_named_file_that_is_missing_is_an_error(tmp_path):
    """A file that somebody named must exist; the message says who named it."""
    error = refused(find, None, environment={"TRAINBUS_CONFIG": str(tmp_path / "none.toml")})
    assert "TRAINBUS_CONFIG names it" in error.problem
    assert "trainbus init" in error.hint


def test_a_syntax_error_names_its_line(write):
    """What is no TOML is refused with file and line."""
    error = refused(load, write("plugins = []\n[bus]\nbind = 127.0.0.1\n"), environment={})
    assert error.facts["line"] == 3
    assert "trainbus.toml:3" in error.problem
    assert error.exit_code == 2


def test_an_unknown_key_is_refused_with_the_nearest_one(write):
    """A typing mistake never silently leaves the default in place."""
    error = refused(load, write("[bus]\nlost_afer = 3\n"), environment={})
    assert error.facts["nearest"] == "bus.lost_after"
    assert "trainbus.toml:2" in error.problem
    assert "Did you mean `bus.lost_after`?" in error.problem


def test_an_unknown_section_lists_what_is_allowed(write):
    """With nothing near, all names are given."""
    error = refused(load, write("[observers]\nx = 1\n"), environment={})
    assert error.facts["key"] == "observers"
    assert "bus, plugin, plugins, trainer" in error.problem


@pytest.mark.parametrize(
    ("line", "found", "allowed"),
    [
        ("lost_after = -1", "-1", "a number above 0 and at most 86,400"),
        ('lost_after = "soon"', '"soon"', "a number above 0"),
        ("lost_after = true", "true", "a number above 0"),
        ("lost_after = nan", "nan", "a number above 0"),
        ("max_deliver = 2.5", "2.5", "a whole number at least 1"),
        ('synchronous = "HALF"', '"HALF"', '"FULL", "NORMAL" or "OFF"'),
        ("bind = 3", "3", "a text"),
        ("journal_max_age = 0", "0", "a number above 0"),
    ],
)
def test_a_wrong_value_is_refused_in_words(write, line, found, allowed):
    """Type, range and choice: what was found and what is allowed, as people say it."""
    error = refused(load, write(f"[bus]\n{line}\n"), environment={})
    assert error.facts["found"] == found
    assert error.facts["allowed"].startswith(allowed)
    assert error.facts["line"] == 2


def test_all_mistakes_are_told_at_once(write):
    """Nobody has to mend a file mistake by mistake; each names where it came from."""
    path = write('plugins = ["web", 3]\n[bus]\nlost_after = -1\nbnd = ""\n')
    error = refused(load, path, overrides=["bus.max_deliver=0"], environment={"TRAINBUS__BUS__LOG_FILES": "none"})
    wheres = [mistake["where"] for mistake in error.facts["mistakes"]]
    assert sorted(wheres) == sorted([f"{path}:1", f"{path}:3", f"{path}:4", "TRAINBUS__BUS__LOG_FILES", "--set bus.max_deliver=0"])
    assert all(where in error.problem for where in wheres)


class Rule(msgspec.Struct):
    name: str
    level: Literal["low", "high"] = "low"


class Deep(msgspec.Struct):
    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    rules: list[Rule] = []
    named: dict[str, Rule] = {}
    extra: Rule | None = None
    pattern: Annotated[str, Meta(pattern="^[a-z]+$")] = "a"

    def __post_init__(self):
        if self.threshold == 0.25:
            raise ValueError("a quarter is unlucky")


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"treshold": 1}, "plugin.x.treshold"),
        ({"threshold": 2}, "plugin.x.threshold"),
        ({"rules": [{"name": "a"}, {"name": "b", "level": "mid"}]}, "plugin.x.rules[1].level"),
        ({"rules": [{}]}, "plugin.x.rules[0].name"),
        ({"named": {"one": {"name": 3}}}, "plugin.x.named.one.name"),
        ({"extra": {"nam": 3, "name": "a"}}, "plugin.x.extra.nam"),
        ({"pattern": "A"}, "plugin.x.pattern"),
        ({"threshold": 0.25}, "plugin.x"),
    ],
)
def test_a_section_is_checked_to_its_depth(data, key):
    """A plugin's own Struct is checked with lists, tables and its own checks; unknown keys are refused though the Struct allows them."""
    assert refused(validate_section, data, Deep, "plugin.x").facts["key"] == key


def test_a_good_section_becomes_its_struct():
    """`validate_section` returns the Struct, with defaults filled in."""
    assert validate_section({"threshold": 1, "extra": {"name": "a"}}, Deep, "plugin.x") == Deep(threshold=1.0, extra=Rule("a"))


def test_a_section_of_a_file_names_its_line(write):
    """The owner of a section asks for it through `Loaded.section`, and messages keep the line."""
    loaded = load(write("[plugin.x]\nthreshold = 7\n"), environment={})
    error = refused(loaded.section, "plugin.x", Deep)
    assert error.facts["line"] == 2
    assert loaded.section("plugin.y", Deep) == Deep()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3), ("3.5", 3.5), ("true", True), ('"3"', "3"), ("[1, 2]", [1, 2]), ("word", "word"), ("a = b", "a = b"),
        ("127.0.0.1", "127.0.0.1"),
        ("2026-01-01", "2026-01-01"), ("", ""), ("1\nx = 2", "1\nx = 2"), ("inf", math.inf), ("{a = 1}", {"a": 1}),
    ],
)  # fmt: skip
def test_values_are_toml_or_bare_words(text, value):
    """What the shell gives is read as TOML where it is TOML, and as text elsewhere."""
    assert parse_value(text) == value


def test_quoted_parts_of_a_key_path_keep_their_dots():
    """A plugin whose name has a dot can be reached."""
    assert split_key('plugin."my.own".x') == ["plugin", "my.own", "x"]
    assert refused(split_key, "a..b").facts["key"] == "a..b"


def test_a_set_without_a_value_is_refused():
    """`--set bus.lost_after` says how it should have been written."""
    assert "--set bus.lost_after=30" in refused(load, overrides=["bus.lost_after"], environment={}).hint


def test_lines_are_found_past_headers_comments_and_quotes():
    """The line scanner follows sections, dotted keys and array tables."""
    text = '# a\nplugins = []\n\n[bus] # the bus\n  bind = "x"\n[plugin."web"]\na.b = 1\n[[plugin.x.rules]]\nname = "r"\n'
    lines = key_lines(text)
    assert (lines["plugins"], lines["bus"], lines["bus.bind"], lines["plugin.web.a.b"], lines["plugin.x.rules.name"]) == (2, 4, 5, 7, 9)


plain = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
)


@given(value=plain)
def test_a_value_that_is_written_reads_back(value):
    """`toml_value` writes TOML: what `trainbus init` and `config show` print can be pasted into a file."""
    assert parse_value(toml_value(value)) == value


def test_every_setting_of_the_bus_has_a_meaning():
    """The descriptions are the documentation, so none may be missing."""
    from trainbus.bus.config_docs import settings

    assert [setting.name for setting in settings(BusConfig) if not setting.meaning] == []
