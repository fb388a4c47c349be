"""`trainbus NAME ...` for a plugin that brings commands along."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import trainbus

PLUGIN = '''
from typing import Annotated
import click, msgspec
from trainbus import hookimpl

class Settings(msgspec.Struct):
    volume: Annotated[int, msgspec.Meta(ge=1, le=11, description="How loud.")] = 5

class Greeter:
    @hookimpl
    def cli_commands(self):
        @click.command()
        @click.argument("name")
        def hello(name):
            """Say hello."""
            click.echo(f"hello {name}")
        return [hello]

    @hookimpl
    def config_schema(self):
        return Settings

class Silent:
    pass

class Raising:
    @hookimpl
    def cli_commands(self):
        raise RuntimeError("no licence")

    @hookimpl
    def config_schema(self):
        raise RuntimeError("no licence")
'''


@pytest.fixture
def environment(tmp_path):
    """An environment in which a package with three plugins is installed; one of them can't be imported."""
    site = tmp_path / "site"
    information = site / "greeting-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "greeting.py").write_text(PLUGIN)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n")
    points = "[trainbus.plugins]\ngreeter = greeting:Greeter\nsilent = greeting:Silent\nbroken = greeting_missing:Plugin\n"
    points += "raising = greeting:Raising\n"
    (information / "entry_points.txt").write_text(points)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), os.environ.get("PYTHONPATH", str(Path.cwd()))])}


def test_a_plugins_commands_are_under_its_name(environment):
    """Without being entered in any table of ours."""
    assert trainbus("greeter", "hello", "bus", env=environment).stdout == "hello bus\n"
    assert "Say hello." in trainbus("greeter", "--help", env=environment).stdout


def test_a_plugin_without_commands_is_no_command(environment):
    """As any unknown name."""
    result = trainbus("silent", env=environment)
    assert result.returncode == 2
    assert "There is no command `silent`" in result.stderr


def test_a_plugin_that_cannot_be_imported_is_named(environment):
    """Exit code 6, one line of error."""
    result = trainbus("broken", env=environment)
    assert result.returncode == 6
    assert "greeting_missing" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_plugins_settings_are_listed(environment):
    """With default, range and meaning, from its Struct."""
    row = trainbus("config", "settings", "plugin.greeter", env=environment).stdout.splitlines()[-1]
    assert row.split("  ")[0].strip() == "volume"
    assert "at least 1 and at most 11" in row
    assert "How loud." in row
    assert "has no settings" in trainbus("config", "settings", "plugin.silent", env=environment).stdout
    assert trainbus("config", "settings", "plugin.nobody", env=environment).returncode == 6
    assert trainbus("config", "settings", "bus", "--json", env=environment).returncode == 0


def test_a_plugin_whose_hooks_raise_here_is_named(environment):
    """As one that can't be imported: exit code 6, one line, and which command says more."""
    for command in (["raising"], ["config", "settings", "plugin.raising"]):
        result = trainbus(*command, env=environment)
        assert result.returncode == 6
        assert "no licence" in result.stderr
        assert "trainbus plugins check raising" in result.stderr
