"""`trainbus plugins check`: everything that can be told about a plugin without its author, each finding with advice.

    report = check_plugin("patience")
    assert report.ok, report.explain()

First a process imports it and looks at hooks, settings, panels and commands (`trainbus.testing.inspection`); then a real broker and a real
plugin host start it, as `trainbus up` does, and stop it in order. With a recorded history, its hooks are also given events.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, entry_points, requires
from pathlib import Path
from typing import Any

import msgspec

from trainbus.bus.hosting import registry
from trainbus.bus.publisher import Publisher
from trainbus.errors import PluginError
from trainbus.hookspecs import ENTRY_POINT_GROUP
from trainbus.testing.hosted import STOP_SECONDS, HostedPlugin, LocalBus
from trainbus.testing.inspection import Finding, fail, ok, warn
from trainbus.testing.recordings import recorded

INSPECTION_SECONDS = 60.0
"""An import that takes longer hangs."""
FEED_SECONDS = 60.0
"""A recorded history is some 200 events: more than enough on any machine."""
LOG_TAIL = 600
"""Characters of a plugin's output that a finding quotes."""


class PluginCheck(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict over a plugin: no finding is ``fail``."""

    plugin: str
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed; warnings are no failures."""
        return all(finding.state != "fail" for finding in self.findings)

    def explain(self) -> str:
        """What is not well, for an assertion's message."""
        lines = [f"{one.state}: {one.check}: {one.found} {one.mend}".rstrip() for one in self.findings if one.state != "ok"]
        return "\n".join([f"{self.plugin}: {'nothing to mend' if not lines else ''}".rstrip(), *lines])


def check_plugin(name: str, *, config: Mapping[str, Any] | None = None, history: str = "", start: bool = True) -> PluginCheck:
    """Check an installed plugin, or ``module:object`` of one in development.

    Args:
        name: The plugin.
        config: Its settings, as in ``[plugin.NAME]``.
        history: A recorded history (`trainbus.testing.recorded`) whose events its hooks are given in the real start.
        start: Whether to start it at all.

    Raises:
        PluginError: No such plugin is installed.
        ValueError: No such history.
    """
    events = recorded(history) if history else []
    plugin = registry.development(name) if ":" in name else registry.find(name)
    findings = [*_packaging(plugin), *_inspect(plugin)]
    if start and all(finding.state != "fail" for finding in findings):
        findings += _hosted(plugin, dict(config or {}), events)
    return PluginCheck(plugin=plugin.name, findings=tuple(findings))


def _packaging(plugin: registry.Installed) -> Iterator[Finding]:
    if not plugin.distribution:
        yield warn(
            "package", f"{plugin.target} is not installed", "Declare it under [project.entry-points.'trainbus.plugins'] and install it."
        )
        return
    owners = sorted({point.dist.name for point in entry_points(group=ENTRY_POINT_GROUP, name=plugin.name) if point.dist is not None})
    if len(owners) > 1:
        yield fail("package", f"{', '.join(owners)} all bring a plugin of this name", "Uninstall all but one, or rename an entry point.")
        return
    try:
        needs = requires(plugin.distribution) or []
    except PackageNotFoundError:
        needs = []
    if plugin.distribution != "trainbus" and not any(need.replace("-", "_").startswith("trainbus") for need in needs):
        yield warn(
            "package",
            f"{plugin.distribution} does not depend on trainbus",
            'Add "trainbus" to its dependencies, with the version you test.',
        )
    else:
        yield ok("package", f"{plugin.distribution} {plugin.version}, {plugin.target}")


def _inspect(plugin: registry.Installed) -> list[Finding]:
    with tempfile.TemporaryDirectory(prefix="trainbus-check-") as folder:
        answers = Path(folder) / "findings"
        command = [sys.executable, "-m", "trainbus.testing.inspection", msgspec.json.encode(plugin).decode(), str(answers)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=INSPECTION_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            return [fail("import", f"it was not done after {INSPECTION_SECONDS:.0f} s", "Move what waits from module level into `start`.")]
        lines = answers.read_bytes().splitlines() if answers.exists() else []
        findings = [msgspec.json.decode(line, type=Finding) for line in lines]
        if done.returncode != 0:
            after = f"after the check of {findings[-1].check}" if findings else "while it was imported"
            mend = "A plugin must not end the process." + (f" Its last words: {tail}" if (tail := done.stderr.strip()[-LOG_TAIL:]) else "")
            findings.append(fail("import", f"its process ended with {done.returncode} {after}", mend))
        return findings


def _hosted(plugin: registry.Installed, config: dict[str, Any], history: list[Any]) -> list[Finding]:
    target = "" if plugin.distribution else plugin.target
    with (
        tempfile.TemporaryDirectory(prefix="trainbus-check-") as folder,
        LocalBus(Path(folder)) as bus,
        bus.host(plugin.name, config=config, target=target) as host,
    ):
        try:
            host.wait_until_running()
        except PluginError as error:
            return [fail("handshake" if host.hello is None else "start", error.problem, error.hint or "Its log says more.")]
        findings = [_handshake(host)]
        if history:
            findings += _fed(bus, host, history)
        code = host.stop()
        if code != 0:
            mend = f"Let `stop` and the hook at work return within `bus.stop_timeout` ({STOP_SECONDS:.0f} s here)."
            return [*findings, fail("stop", f"it ended with {code}: {host.output()[-LOG_TAIL:].strip()}", mend)]
        return [*findings, ok("stop", "ended in order")]


def _handshake(host: HostedPlugin) -> Finding:
    assert host.hello is not None  # it runs
    kinds = host.hello.kinds
    if kinds == []:
        mend = "`on_event` has every event sent to the plugin: implement the hooks of the kinds that it needs, if these are not all."
        return warn("handshake", "started; it is sent every event of every kind", mend)
    return ok("handshake", f"started; it is sent {', '.join(kinds) if kinds else 'no events'}")


def _fed(bus: LocalBus, host: HostedPlugin, history: list[Any]) -> list[Finding]:
    publisher = Publisher(history[0].run, name="plugins check", root=bus.root)
    for event in history:
        publisher.publish(event)
    taken = publisher.flush(FEED_SECONDS)
    publisher.close()
    if not taken:
        return [fail("events", f"they were not taken within {FEED_SECONDS:.0f} s", "Try again when this machine has less to do.")]
    kinds = host.hello.kinds if host.hello else None
    wanted = [event.offset for event in bus.events(*(kinds or ())) if event.source == publisher.source]
    try:
        if kinds is not None and wanted:
            host.wait_for_offset(wanted[-1])
    except PluginError as error:
        return [fail("events", error.problem, error.hint or "Its log says more.")]
    raised = host.progress.errors
    if raised:
        host.stop()  # the last it does is to send its alerts
        said = [alert.message for alert in bus.events("alert") if alert.rule == "plugin_error"]
        what = "; ".join(dict.fromkeys(said)) or host.output()[-LOG_TAIL:]
        return [
            fail("events", f"hooks raised {raised} times: {what}", "Feed the same history to a PluginHarness in a test: it raises there.")
        ]
    return [ok("events", f"{len(wanted)} events handled, nothing raised")]
