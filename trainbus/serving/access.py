"""Who may ask, and who may administer."""

from __future__ import annotations

import hmac
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from trainbus.serving.config import LOOPBACK, ServeConfig

Right: TypeAlias = Literal["none", "read", "admin"]
"""What a route asks for."""


class Refusal(NamedTuple):
    """Status and words."""

    status: int
    problem: str


def refuse(config: ServeConfig, headers: Mapping[str, str], right: Right) -> Refusal | None:
    """Why a request is refused; None when it may pass.

    Without keys whoever reaches this machine's own address may do everything, but no web page of another site may: a browser
    would send its requests here, too.
    """
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") or _foreign(headers):
        return Refusal(403, "Requests from other sites' pages are refused.")
    if not config.read_keys and not config.admin_keys:
        if _name(headers.get("Host", "")) not in LOOPBACK:
            return Refusal(403, "Without keys the server answers to its loopback address only.")
        return None
    if right == "none":
        return None
    offered = _offered(headers)
    # Both are compared, so that the time tells nothing.
    admin, reader = _among(config.admin_keys, offered), _among(config.read_keys, offered)
    if not (admin or reader):
        return Refusal(401, "A key is needed: send the header Authorization: Bearer KEY.")
    if right == "admin" and not admin:
        return Refusal(403, "This key may ask, and not administer.")
    return None


def _among(keys: Sequence[str], offered: str) -> bool:
    found = [hmac.compare_digest(key.encode(), offered.encode("utf-8", "replace")) for key in keys]
    return any(found)


def _offered(headers: Mapping[str, str]) -> str:
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else headers.get("X-API-Key", "")


def _foreign(headers: Mapping[str, str]) -> bool:
    origin = headers.get("Origin", "")
    return bool(origin) and urlsplit(origin).netloc.lower() != headers.get("Host", "").lower()


def _name(host: str) -> str:
    return (urlsplit(f"//{host}").hostname or "").lower()
