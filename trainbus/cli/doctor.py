"""``trainbus doctor``: is this machine fit, and what would mend it."""

from __future__ import annotations

from pathlib import Path

import click
from rich.text import Text

from trainbus.bus.drain import spools
from trainbus.bus.home import home
from trainbus.cli import checks, host_checks, key_checks
from trainbus.cli.options import json_option
from trainbus.cli.output import print_json, state, stdout, table


def findings() -> list[checks.Finding]:
    """The answers of all checks, in the order of the table."""
    single = [checks.python_version(), checks.home_directory(), checks.configuration(), checks.broker(), checks.orphans(_left_behind)]
    return [*single, *key_checks.keys(home()), checks.disk(), *host_checks.host(), *checks.extras(), checks.gpu()]


def _left_behind(root: Path) -> list[tuple[str, int]]:
    return [(info.run or info.source, info.bytes) for info in spools(root) if not info.held]


@click.command(name="doctor")
@json_option
def command(as_json: bool) -> int:
    """Check this machine and say how to mend what is wrong. Exit code 1 when something fails; a warning is no failure."""
    found = findings()
    if as_json:
        print_json({"ok": all(finding.state != "fail" for finding in found), "findings": found})
    else:
        rows = ((finding.check, state(finding.state), Text.assemble(finding.found, *_mend(finding))) for finding in found)
        stdout().print(table("check", "state", "found", rows=rows))
    return 1 if any(finding.state == "fail" for finding in found) else 0


def _mend(finding: checks.Finding) -> list[tuple[str, str]]:
    return [(f"\n{finding.mend}", "cyan")] if finding.mend else []
