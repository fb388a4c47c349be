"""Changes the list ``plugins`` in a configuration file, leaving its comments and layout as they are."""

from __future__ import annotations

from pathlib import Path

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import Array

from trainbus.bus.home import write_atomically
from trainbus.errors import ConfigError


def enable(file: Path, name: str) -> bool:
    """Add a plugin to the list; False when it is there already.

    Raises:
        ConfigError: The file can't be read, or its ``plugins`` is no list.
    """
    return _edit(file, name, wanted=True)


def disable(file: Path, name: str) -> bool:
    """Take a plugin off the list (its section stays); False when it is not there.

    Raises:
        ConfigError: The file can't be read, or its ``plugins`` is no list.
    """
    return _edit(file, name, wanted=False)


def _edit(file: Path, name: str, *, wanted: bool) -> bool:
    try:
        document = tomlkit.parse(file.read_text(encoding="utf-8"))
        mode = file.stat().st_mode & 0o777
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise ConfigError(f"{file} can't be changed: {error}", hint="Mend it, then try again.", file=str(file)) from error
    listed = document.get("plugins")
    if listed is None:
        listed = tomlkit.array()
        if wanted:  # top-level keys must stand before the first section
            document = tomlkit.parse(f"plugins = []\n{tomlkit.dumps(document)}")
            listed = document["plugins"]
    if not isinstance(listed, Array):
        raise ConfigError(f"{file}: plugins is no list of names.", hint='For example: plugins = ["anomaly"]', file=str(file), key="plugins")
    if (name in listed) == wanted:
        return False
    if wanted:
        listed.append(name)
    else:
        listed.remove(name)
    write_atomically(file, tomlkit.dumps(document).encode(), mode=mode)
    return True
