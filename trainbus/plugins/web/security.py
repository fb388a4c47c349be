"""Who may talk to the page's server, decided from headers alone.

The server answers a browser on the same machine, so the danger is another site's page in that browser: it may send requests
(refused by Origin), or point its own name at 127.0.0.1 and read the answers (refused by Host).
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from msgspec import Struct

from trainbus.plugins.web.config import WebConfig, is_loopback

COOKIE = "trainbus_token"

Role: TypeAlias = Literal["viewer", "operator"]

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Sent with every answer."""


class Refusal(Struct, frozen=True):
    """An HTTP status with what a person should read."""

    status: int
    problem: str


def host_name(header: str) -> str:
    """The name in a Host header, without port and in lower case; empty when there is none."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def refuse(config: WebConfig, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Refusal | None:
    """Why a request is refused; None when it may pass."""
    host = headers.get("Host", "")
    if not _known_host(config, host_name(host)):
        return Refusal(403, f"This server does not answer to the name {host_name(host)!r}. Add it to plugin.web.allowed_hosts.")
    origin = headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        return Refusal(403, "Requests from other sites are refused.")
    if headers.get("Sec-Fetch-Site", "none") == "cross-site" and headers.get("Sec-Fetch-Mode") != "navigate":
        return Refusal(403, "Requests from other sites are refused.")
    closed = bool(config.token) or (bool(config.operator_token) and not is_loopback(config.bind))
    if closed and not any(known(config, offered) for offered in _offered(headers, cookies)):
        return Refusal(401, "A token is needed: open the page with ?token=..., or send the header Authorization: Bearer ...")
    return None


def role(config: WebConfig, headers: Mapping[str, str], cookies: Mapping[str, str]) -> Role:
    """What somebody may do who was not refused."""
    if not config.steering:
        return "viewer"
    if config.operator_token:
        return "operator" if any(same(config.operator_token, offered) for offered in _offered(headers, cookies)) else "viewer"
    # Without any token whoever reaches the port is on this machine, where the bus itself takes commands from everybody.
    return "viewer" if config.token else "operator"


def refuse_viewer(held: Role) -> Refusal | None:
    """Why a request that only an operator may send is refused; None when it may pass."""
    return None if held == "operator" else Refusal(403, "Only an operator may do that: open the page with the operator's token.")


def refuse_change(held: Role, headers: Mapping[str, str], content_type: str = "application/json") -> Refusal | None:
    """Why a request that changes something is refused, beyond `refuse`; None when it may pass.

    A form of another site can send neither JSON nor plain bytes without asking first, which is never granted.
    """
    return refuse_viewer(held) or refuse_foreign(headers, content_type)


def refuse_foreign(headers: Mapping[str, str], content_type: str = "application/json") -> Refusal | None:
    """Why a request that writes is not from the page itself or a script; None when it may be."""
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != content_type:
        return Refusal(415, f"Send it with the header Content-Type: {content_type}.")
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        return Refusal(403, "Requests from other sites are refused.")
    return None


def holder(config: WebConfig, headers: Mapping[str, str], cookies: Mapping[str, str]) -> str:
    """The token by which somebody asks who was not refused; empty where he needed none."""
    return next((offered for offered in _offered(headers, cookies) if known(config, offered)), "")


def known(config: WebConfig, offered: str) -> bool:
    """Whether a text is one of the tokens."""
    # Both are compared, so that the time tells nothing.
    found = [same(token, offered) for token in (config.token, config.operator_token) if token]
    return any(found)


def same(expected: str, offered: str) -> bool:
    """Compare two secrets in constant time."""
    return hmac.compare_digest(expected.encode(), offered.encode("utf-8", "replace"))


def _offered(headers: Mapping[str, str], cookies: Mapping[str, str]) -> list[str]:
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    return [cookies.get(COOKIE, ""), bearer.strip() if scheme.lower() == "bearer" else ""]


def _known_host(config: WebConfig, name: str) -> bool:
    if name in {allowed.lower() for allowed in config.allowed_hosts}:
        return True
    if is_loopback(config.bind):
        return is_loopback(name)
    # Reached under any of the machine's names. The token's cookie belongs to one name, so a foreign name comes without it.
    return not config.allowed_hosts or name == config.bind.lower() or is_loopback(name)
