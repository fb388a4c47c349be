"""``trainbus service``."""

from __future__ import annotations

import getpass
import os
import shlex
import sys
from pathlib import Path

import click

from trainbus.bus.config_file import find
from trainbus.bus.home import home

UNIT = """\
# trainbus: the event bus and its plugins.
# Install for one user:   trainbus service > ~/.config/systemd/user/trainbus.service
#                         systemctl --user daemon-reload && systemctl --user enable --now trainbus
[Unit]
Description=trainbus: event bus and monitors for training runs
After=network.target

[Service]
Type=exec
ExecStart={command}
ExecReload={reload}
WorkingDirectory={directory}
Environment={environment}
{user}# trainbus stops plugins before the broker; only what is left after that is killed.
KillMode=mixed
TimeoutStopSec=60
# 2 is a configuration that can't work, 5 a journal that can't be opened: starting again would not help.
Restart=on-failure
RestartPreventExitStatus=2 5
RestartSec=2

[Install]
WantedBy={target}
"""


@click.command(name="service")
@click.option("--system", is_flag=True, help="A unit for the whole machine (runs as you) instead of a user's own.")
@click.option("--config", "config_path", type=click.Path(path_type=Path, dir_okay=False), help="The configuration file that it uses.")
def command(system: bool, config_path: Path | None) -> None:
    """Print a systemd unit that runs `trainbus up` on this machine."""
    file = find(config_path)
    click.echo(unit(file, system=system), nl=False)


def unit(file: Path | None, *, system: bool = False) -> str:
    """The unit's text."""
    trainbus = [sys.executable, "-m", "trainbus"]
    script = Path(sys.executable).parent / "trainbus"
    if script.exists():
        trainbus = [str(script)]
    up = [*trainbus, "up"] + (["--config", str(file.absolute())] if file is not None else [])
    return UNIT.format(
        command=_quoted(up),
        reload=_quoted([*trainbus, "reload"]),
        directory=_escaped(str(file.absolute().parent if file is not None else Path.home())),
        environment=shlex.quote(f"TRAINBUS_HOME={_escaped(os.path.abspath(home()))}"),  # noqa: PTH100 - resolving links would rename it
        user=f"User={getpass.getuser()}\n" if system else "",
        target="multi-user.target" if system else "default.target",
    )


def _quoted(words: list[str]) -> str:
    """A command line as systemd reads it: its quoting is like a shell's, but % and $ have meanings of their own."""
    return " ".join(shlex.quote(_escaped(word).replace("$", "$$")) for word in words)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
