"""Delivering one message to one channel. Blocking: called in a thread."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from trainbus.bus.jsonable import to_json
from trainbus.errors import ConfigError, TrainbusError
from trainbus.plugins.notify.config import ChannelConfig
from trainbus.plugins.notify.message import Message

URGENCY = {"info": "low", "warning": "normal", "critical": "critical"}


class DeliveryError(TrainbusError):
    """A message could not be delivered. Never holds the URL: that is a secret."""

    code = "notify"


def send(channel: ChannelConfig, message: Message) -> None:
    """Deliver a message.

    Raises:
        DeliveryError: It could not be delivered now.
        ConfigError: It never can: no URL, or a file that others can read.
    """
    {"desktop": _desktop, "webhook": _webhook, "apprise": _apprise}[channel.type](channel, message)


def url_of(channel: ChannelConfig) -> str:
    """The channel's URL.

    Raises:
        ConfigError: There is none, or others can read it.
    """
    key = f"plugin.notify.channels ({channel.name})"
    if channel.url_env:
        found = os.environ.get(channel.url_env, "").strip()
        if not found:
            hint = "Set it in the environment of `trainbus up`."
            raise ConfigError(f"{key}: the environment variable {channel.url_env} is not set.", hint=hint, key=key)
        return found
    if not channel.url_file:
        hint = "A URL is a secret: name an environment variable (url_env) or a file with mode 0600 (url_file)."
        raise ConfigError(f"{key} has no URL.", hint=hint, key=key)
    path = Path(channel.url_file).expanduser()
    try:
        mode = path.stat().st_mode
        found = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{key}: {path} can't be read: {error.strerror}.", hint="Write the URL into it.", key=key) from error
    if stat.S_IMODE(mode) & 0o077:
        hint = f"chmod 600 {path}"
        raise ConfigError(f"{key}: others can read {path} (mode {stat.S_IMODE(mode):04o}).", hint=hint, key=key, file=str(path))
    return found


def _desktop(channel: ChannelConfig, message: Message) -> None:
    program = shutil.which("notify-send")
    if program is None:
        raise DeliveryError("notify-send is not on PATH.", hint="Install libnotify's tools, or use another channel.")
    command = [program, "--app-name", "trainbus", "--urgency", URGENCY[message.severity], "--", message.title, message.text]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=channel.timeout)
    except (OSError, subprocess.SubprocessError) as error:
        raise DeliveryError(f"notify-send failed: {error}.", hint="Is there a desktop session?") from error


def _webhook(channel: ChannelConfig, message: Message) -> None:
    url = url_of(channel)
    if urlsplit(url).scheme not in ("http", "https"):
        raise ConfigError(f"The URL of channel {channel.name} is neither http nor https.", hint="Other services go through apprise.")
    request = urllib.request.Request(url, data=to_json(message), headers={"Content-Type": "application/json"}, method="POST")
    token = os.environ.get(channel.token_env, "") if channel.token_env else ""
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=channel.timeout):
            pass
    except urllib.error.HTTPError as error:
        raise DeliveryError(f"Channel {channel.name} answered {error.code}.", hint="Is its URL still valid?", status=error.code) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", type(error).__name__)
        raise DeliveryError(f"Channel {channel.name} can't be reached: {reason}.", hint="It is tried again.") from error


def _apprise(channel: ChannelConfig, message: Message) -> None:
    try:
        import apprise
    except ModuleNotFoundError as error:
        raise ConfigError("Channels of type apprise need the module apprise.", hint="pip install 'trainbus[notify]'") from error
    service = apprise.Apprise()
    if not service.add(url_of(channel)):
        raise ConfigError(f"apprise does not know the URL of channel {channel.name}.", hint="https://github.com/caronc/apprise lists all.")
    kinds = {"info": apprise.NotifyType.INFO, "warning": apprise.NotifyType.WARNING, "critical": apprise.NotifyType.FAILURE}
    try:
        taken = service.notify(title=message.title, body=message.text, notify_type=kinds[message.severity])
    except Exception as error:  # whatever a service's plugin raises
        raise DeliveryError(f"Channel {channel.name} failed: {type(error).__name__}.", hint="It is tried again.") from error
    if not taken:
        raise DeliveryError(f"Channel {channel.name} did not take the message.", hint="It is tried again.")
