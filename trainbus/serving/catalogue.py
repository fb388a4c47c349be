"""Which models may be asked for, by name, digest or path; nothing outside the folders that were allowed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from msgspec import Struct

from trainbus.errors import RefusedError
from trainbus.serving.loading import ADAPTER_WEIGHTS, WEIGHTS, adapter_config, check_adapter, check_model, is_adapter

ACTIVE = "active"
"""The name of whatever model is the active one."""
PATHS_MAX = 1_000
"""Entries that came by their path are forgotten, oldest first, beyond so many."""


class Entry(Struct, kw_only=True):
    """One model or adapter.

    ``origin`` is ``configured``, ``path``, ``lora`` (by ``/v1/load_lora_adapter``) or ``uploaded``. ``base`` is the name of an adapter's
    base, if it was told. ``used`` is the wall clock of the last request, in seconds.
    """

    id: str
    folder: Path
    adapter: bool
    digest: str = ""
    base: str = ""
    origin: str = "configured"
    created: float = 0.0
    used: float = 0.0

    def stamp(self) -> str:
        """Changes when the weights are written anew: a resumed training writes the same checkpoint again.

        Raises:
            RefusedError: They are gone (``facts["code"]``: ``unknown``).
        """
        names = (ADAPTER_WEIGHTS,) if self.adapter else WEIGHTS
        for name in names:
            try:
                found = (self.folder / name).stat()
            except OSError:
                continue
            return f"{found.st_mtime_ns:x}-{found.st_size:x}-{found.st_ino:x}"
        raise RefusedError(f"{self.id} is gone.", hint="It may have been deleted; ask for another one.", code="unknown")

    def size(self) -> int:
        """Bytes of the weights on the disk."""
        return sum(file.stat().st_size for file in self.folder.glob("*.safetensors"))


class Catalogue:
    """Names to folders.

    Args:
        models: What is configured, by name; the first is active.
        roots: Paths below these may be asked for.
        paths: Prefixes of others' paths, and what they are here.

    Raises:
        ModelError: A configured folder is no model.
    """

    def __init__(self, models: Mapping[str, Path], roots: Sequence[Path] = (), paths: Mapping[str, str] | None = None) -> None:
        self._roots = [root.expanduser().resolve() for root in roots]
        self._paths = dict(paths or {})
        self._entries: dict[str, Entry] = {}
        self.active = ""
        for name, folder in models.items():
            self.add(name, folder)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def add(self, name: str, folder: Path, *, origin: str = "configured", digest: str = "", base: str = "") -> Entry:
        """Make a folder known under a name; the same name and folder again change nothing but base and digest.

        Raises:
            ModelError: It is no model or adapter that can be trusted.
            RefusedError: The name belongs to another one (``facts["code"]``: ``exists``), or is none (``invalid``).
        """
        if not name or name == ACTIVE or len(name) > 512 or not name.isprintable():
            raise RefusedError(f"{name!r} can't be a model's name.", hint="Any printable text but 'active' can.", code="invalid")
        folder = folder.expanduser().resolve()
        known = self._entries.get(name)
        if known is not None and known.folder != folder:
            raise RefusedError(f"The name {name!r} belongs to another model.", hint="Unload it first, or use another name.", code="exists")
        adapter = is_adapter(folder)
        if adapter:
            check_adapter(folder)
        else:
            check_model(folder)
        entry = Entry(id=name, folder=folder, adapter=adapter, digest=digest, base=base, origin=origin, created=time.time())
        self._entries[name] = entry
        self.active = self.active or name
        return entry

    def remove(self, name: str) -> Entry:
        """Forget a name.

        Raises:
            RefusedError: It is not known.
        """
        if name not in self._entries:
            raise self._unknown(name)
        if self.active == name:
            self.active = next((other for other in self._entries if other != name), "")
        return self._entries.pop(name)

    def find(self, name: str) -> Entry:
        """The entry of a name, a digest, or a path below an allowed folder; the empty name is the active model.

        Raises:
            RefusedError: There is none (``facts["code"]``: ``unknown``).
            ModelError: There is no model at the path.
        """
        name = self.active if name in ("", ACTIVE) else name
        if name in self._entries:
            return self._entries[name]
        for entry in self._entries.values():
            if entry.digest and entry.digest == name:
                return entry
        if "/" not in name:
            raise self._unknown(name)
        entry = self.add(name, self.allowed(name), origin="path")
        by_path = [one for one in self._entries.values() if one.origin == "path"]
        if len(by_path) > PATHS_MAX:
            self._entries.pop(by_path[0].id)
        return entry

    def allowed(self, path: str) -> Path:
        """The folder that a path of somebody else's is here.

        Raises:
            RefusedError: It lies outside the allowed folders, or there is none; both look the same from outside.
        """
        folder = Path(self._mapped(path)).expanduser()
        if folder.is_absolute() and "\0" not in path:
            folder = folder.resolve()  # symbolic links and .. first, then the comparison
            if any(folder.is_relative_to(root) for root in self._roots) and folder.is_dir():
                return folder
        raise RefusedError(
            f"There is no model {path!r} here, or its folder is not allowed.",
            hint="Start the server with --allow FOLDER (and --map THEIRS=OURS where paths differ).",
            code="unknown",
        )

    def base_of(self, entry: Entry) -> Entry:
        """An adapter's base: the one that was told, the one that it names, or the only one that there is.

        Raises:
            RefusedError: None of these is known.
        """
        if entry.base:
            return self.find(entry.base)
        named = str(adapter_config(entry.folder).get("base_model_name_or_path") or "")
        bases = [one for one in self._entries.values() if not one.adapter]
        if named:
            for folder in (Path(self._mapped(named)).expanduser().resolve(), (entry.folder / named).resolve()):
                for one in bases:
                    if one.folder == folder:
                        return one
        kept = [one for one in bases if one.origin != "path"]
        if len(kept) == 1:
            return kept[0]
        if named.startswith("/"):
            return self.find(named)
        raise RefusedError(
            f"The base model of {entry.id} is not known here.", hint="Register it, or name it when registering the adapter.", code="unknown"
        )

    def _mapped(self, path: str) -> str:
        here = PurePosixPath(path)
        for prefix in sorted(self._paths, key=lambda prefix: -len(PurePosixPath(prefix).parts)):
            if here.is_relative_to(prefix):
                return str(PurePosixPath(self._paths[prefix]) / here.relative_to(prefix))
        return path

    def _unknown(self, name: str) -> RefusedError:
        known = ", ".join(list(self._entries)[:10]) or "none"
        return RefusedError(f"The model {name!r} does not exist.", hint=f"Known are: {known}.", code="unknown")
