"""`trainbus plugins check`: each mistake that an author can make is a finding that says what to do."""

from __future__ import annotations

import json

import pytest

from tests.support import trainbus
from trainbus.errors import PluginError
from trainbus.testing import check_plugin

GOOD = """
import click
from typing import Annotated
from trainbus import Panel

class Settings(msgspec.Struct):
    limit: Annotated[float, msgspec.Meta(gt=0, description="Above this it is high.")] = 3.0

class P:
    hook_api = 1
    @hookimpl
    def config_schema(self): return Settings
    @hookimpl
    def web_panels(self): return [Panel(id="loss", title="Loss", kind="chart", events="step", fields=("metrics.loss",))]
    @hookimpl
    def cli_commands(self): return [click.Command("look", help="Look at it.")]
    @hookimpl
    def on_step(self, event, context): assert context.config.limit > 0
"""

WRONG = """
import click
from trainbus import Panel

class Settings(msgspec.Struct):
    limit: int = 3
    name: str

class P:
    @hookimpl
    def on_setp(self, event): pass
    @hookimpl
    def on_eval(self, evnt): pass
    def on_alert(self, event): pass
    @hookimpl
    def config_schema(self): return Settings
    @hookimpl
    def web_panels(self):
        chart = dict(title="", kind="chart", fields=("metrics.loss",))
        return [Panel(id="a", events="step", **chart), Panel(id="a", events="steps", **chart), Panel(id="b", events="alert", **chart)]
    @hookimpl
    def cli_commands(self): return [click.Command("look")]
""".replace("    limit: int = 3\n    name: str", "    name: str\n    limit: int = 3")


def findings(report, check):
    return [(finding.state, f"{finding.found} -> {finding.mend}") for finding in report.findings if finding.check == check]


def test_a_good_plugin_passes_every_check(site):
    """Package, import, hooks, HOOK_API, settings, panels, commands, handshake, events, stop; exit code 0, and the same as JSON."""
    site.install("good", GOOD)
    result = trainbus("plugins", "check", "good", "--history", "healthy", "--option", "limit=1.5", "--json")
    answer = json.loads(result.stdout)
    assert result.returncode == 0
    assert answer["ok"]
    states = {finding["check"]: finding["state"] for finding in answer["findings"]}
    assert states.pop("package") == "warn"  # the test's distribution declares no dependency
    assert states.pop("import") in ("ok", "warn")  # how long that takes depends on what else the machine does
    expected = ["hooks", "HOOK_API", "config", "panels", "commands", "handshake", "events", "stop"]
    assert states == dict.fromkeys(expected, "ok")
    assert ("ok", "200 events handled, nothing raised -> ") in [
        (finding["state"], f"{finding['found']} -> {finding['mend']}") for finding in answer["findings"]
    ]


def test_all_mistakes_are_named_at_once_and_each_with_advice(site):
    """Nobody has to mend one to hear of the next; a plugin that can't be loaded is not started."""
    site.install("wrong", WRONG)
    report = check_plugin("wrong")
    assert not report.ok
    assert all(finding.mend for finding in report.findings if finding.state != "ok")
    hooks = findings(report, "hooks")
    assert [state for state, _ in hooks] == ["fail", "fail", "warn"]
    assert any("no argument named 'evnt'" in text and "def on_eval(self, event, context)" in text for _, text in hooks)
    assert any("no hook named 'on_setp'" in text and "def on_step(self, event, context)" in text for _, text in hooks)
    assert any("on_alert() has the name of a hook" in text and "@hookimpl" in text for _, text in hooks)
    assert "hook_api = 1" in findings(report, "HOOK_API")[0][1]
    assert ["name" in text for _, text in findings(report, "config")] == [True, True]
    panels = " ".join(text for _, text in findings(report, "panels"))
    assert "another panel has this id" in panels
    assert "no kind 'steps'. Did you mean 'step'?" in panels
    assert "alert events have no field 'metrics'" in panels
    assert "docstring" in findings(report, "commands")[0][1]
    assert findings(report, "handshake") == []
    assert "fail: hooks:" in report.explain()


@pytest.mark.parametrize(
    ("source", "state", "words"),
    [
        ("import surely_not_installed\n", "fail", "surely_not_installed"),
        ("import sys\nsys.exit(3)\n", "fail", "its process ended with 3 while it was imported"),
        (
            "import sys\nsys.modules['torch'] = sys\nclass P:\n    @hookimpl\n    def on_step(self): pass\n",
            "warn",
            "Import torch inside `start`",
        ),
        ("time.sleep(1.5)\nclass P:\n    @hookimpl\n    def on_step(self): pass\n", "warn", "inside `start`"),
        ("class P:\n    def __init__(self): raise ValueError('no key')\n", "fail", "no key"),
    ],
    ids=["missing module", "exit", "heavy", "slow", "constructor"],
)
def test_importing_is_looked_at_in_a_process_of_its_own(site, source, state, words):
    """What it raises, ends, loads and costs."""
    site.install("import_it", source)
    report = check_plugin("import_it", start=False)
    assert [(found, True) for found, text in findings(report, "import") if words in text] == [(state, True)], report.findings


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("    hook_api = 2\n", ("HOOK_API", "Install a newer trainbus")),
        ("    @hookimpl\n    def config_schema(self): return dict\n", ("config", "return Settings")),
        ("    @hookimpl\n    def config_schema(self): 1 / 0\n", ("config", "ZeroDivisionError")),
        ("    @hookimpl\n    def web_panels(self): return 'panel'\n", ("panels", "Return a list")),
        ("    @hookimpl\n    def cli_commands(self): return ['look']\n", ("commands", "click commands")),
    ],
)
def test_what_a_hook_returns_is_looked_at(site, source, words):
    """Before anything is started."""
    site.install("returns", "class P:\n    @hookimpl\n    def on_step(self): pass\n" + source)
    report = check_plugin("returns", start=False)
    assert any(state == "fail" and words[1] in text for state, text in findings(report, words[0])), report.findings


def test_a_default_that_the_schema_itself_refuses_is_found(site):
    """msgspec does not look at defaults."""
    source = "from typing import Annotated\nclass S(msgspec.Struct):\n    n: Annotated[int, msgspec.Meta(ge=1, description='N.')] = 0\n"
    site.install("default", source + "class P:\n    @hookimpl\n    def config_schema(self): return S\n")
    assert "its own default is refused: `plugin.default.n`" in findings(check_plugin("default", start=False), "config")[0][1]


def test_a_start_that_raises_and_hooks_that_raise_are_found_by_doing_it(site):
    """With a real host and a real broker: what it said, and on which event."""
    site.install("no_start", "class P:\n    @hookimpl\n    def start(self, context): raise OSError('no licence')\n")
    assert any("no licence" in text for state, text in findings(check_plugin("no_start"), "start") if state == "fail")
    site.install("raises", "class P:\n    @hookimpl\n    def on_eval(self, event): raise KeyError(event.metrics['perplexity'])\n")
    assert check_plugin("raises").ok
    ((state, text),) = findings(check_plugin("raises", history="healthy"), "events")
    assert state == "fail"
    assert "hooks raised 10 times: raises: on_eval raised KeyError: 'perplexity'" in text
    assert "PluginHarness" in text


def test_settings_that_are_refused_are_a_finding_too(site):
    """The handshake says which key, and what is allowed."""
    site.install("good", GOOD)
    ((state, text),) = findings(check_plugin("good", config={"limit": -1.0}), "handshake")
    assert state == "fail"
    assert "plugin.good.limit" in text


def test_a_plugin_in_development_needs_no_installation(site):
    """module:object, as for attach; it is told that it is not installed."""
    module = site.install("good", GOOD)
    report = check_plugin(f"{module}:P")
    assert report.plugin == "p"
    assert report.ok, report.explain()
    assert "not installed" in findings(report, "package")[0][1]
    assert findings(report, "handshake") == [("ok", "started; it is sent step -> ")]


def test_two_packages_with_one_name_and_no_package_at_all_are_told_apart(site):
    """Which of two is loaded would be chance; a name that is not there is an error with the nearest ones."""
    site.install("good", GOOD)
    site.install("good", GOOD, version="9")
    other = site.directory / "other_dist-1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other-dist\nVersion: 1\n")
    (other / "entry_points.txt").write_text("[trainbus.plugins]\ngood = site_plugin_good:P\n")
    ((state, text),) = findings(check_plugin("good", start=False), "package")
    assert state == "fail"
    assert "good-dist, other-dist all bring" in text
    with pytest.raises(PluginError, match="no plugin named 'goood'"):
        check_plugin("goood")
    with pytest.raises(ValueError, match="no recorded history"):
        check_plugin("good", history="nobody")


@pytest.mark.slow
def test_a_plugin_that_does_not_end_is_found(site):
    """It is killed when its time is up."""
    site.install("stays", "class P:\n    @hookimpl\n    def stop(self): time.sleep(600)\n")
    ((state, text),) = findings(check_plugin("stays"), "stop")
    assert state == "fail"
    assert "within `bus.stop_timeout`" in text


@pytest.mark.parametrize("name", ["anomaly", "retention", "notify"])
def test_our_own_plugins_pass(trainbus_home, name):
    """They are plugins like anybody's. Warnings are allowed: none of them states HOOK_API."""
    report = check_plugin(name)
    assert report.ok, report.explain()
