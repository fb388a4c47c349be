"""The page's files, read once into memory: what is not in this table does not exist, so no path can lead out of it."""

from __future__ import annotations

import gzip
import hashlib
import re
from importlib import resources

from msgspec import Struct

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}

HASHED = re.compile(r"-[\w-]{8}\.(?:js|css)$")
"""Files whose name changes with their content; a browser needs never ask for them again."""

UNBUILT = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>trainbus</title><h1>The page has not been built</h1>
<p>In a source checkout <code>make page</code> builds it; then start the plugin again. The API works: <a href="/api/state">/api/state</a>,
<a href="/api/openapi.json">/api/openapi.json</a>.</p></html>"""


class Asset(Struct, frozen=True):
    """One file, also compressed, with a tag that changes with its content. ``lasting``: its name does, too."""

    content_type: str
    plain: bytes
    zipped: bytes
    etag: str
    lasting: bool = False


def load() -> dict[str, Asset]:
    """All files of the page by their path in the address: ``/`` and ``/static/NAME``."""
    assets = {"/": _asset("index.html", UNBUILT)}
    folder = resources.files("trainbus.plugins.web").joinpath("static")
    for file in folder.iterdir() if folder.is_dir() else ():
        if file.name.rpartition(".")[2] in TYPES:
            assets["/" if file.name == "index.html" else f"/static/{file.name}"] = _asset(file.name, file.read_bytes())
    return assets


def _asset(name: str, plain: bytes) -> Asset:
    return Asset(
        content_type=TYPES[name.rpartition(".")[2]],
        plain=plain,
        zipped=gzip.compress(plain, mtime=0),
        etag=hashlib.sha256(plain).hexdigest()[:16],
        lasting=HASHED.search(name) is not None,
    )
