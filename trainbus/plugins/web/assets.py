"""The page's files, read once into memory: what is not in this table does not exist, so no path can lead out of it."""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources

from msgspec import Struct

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


class Asset(Struct, frozen=True):
    """One file, also compressed, with a tag that changes with its content."""

    content_type: str
    plain: bytes
    zipped: bytes
    etag: str


def load() -> dict[str, Asset]:
    """All files of the page by their path in the address: ``/`` and ``/static/NAME``."""
    assets = {}
    for file in resources.files("trainbus.plugins.web").joinpath("static").iterdir():
        kind = file.name.rpartition(".")[2]
        if kind not in TYPES:
            continue
        plain = file.read_bytes()
        path = "/" if file.name == "index.html" else f"/static/{file.name}"
        etag = hashlib.sha256(plain).hexdigest()[:16]
        assets[path] = Asset(content_type=TYPES[kind], plain=plain, zipped=gzip.compress(plain, mtime=0), etag=etag)
    return assets
