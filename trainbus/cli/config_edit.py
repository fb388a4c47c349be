"""One setting in a configuration file, changed in its place: comments and layout stay."""

from __future__ import annotations

from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError

from trainbus.bus.home import write_atomically
from trainbus.errors import ConfigError


def write_setting(file: Path, section: str, key: str, value: int) -> None:
    """Set a key of a section.

    Raises:
        ConfigError: The file can't be read or written, or the section is no table.
    """
    try:
        document = tomlkit.parse(file.read_text(encoding="utf-8"))
        mode = file.stat().st_mode & 0o777
        table = document.setdefault(section, tomlkit.table())
        table[key] = value
        write_atomically(file, tomlkit.dumps(document).encode(), mode=mode)
    except (OSError, UnicodeDecodeError, TOMLKitError, TypeError) as error:
        raise ConfigError(f"{file} can't be changed: {error}", hint=f"Set {section}.{key} = {value} by hand.", file=str(file)) from error
