"""Tokens: what they hold, where they are kept, and that nothing tells them by accident."""

from __future__ import annotations

import pytest

from trainbus.bus.credentials import PREFIX, VARIABLE, Credentials, chosen, load_remote, parse_token, resolve, store_remote
from trainbus.errors import ConfigError

SECRET = "S3cr3t" + "x" * 34


def credentials(**fields) -> Credentials:
    made = {
        "name": "laptop",
        "role": "observer",
        "router": "tcp://10.0.0.5:7001",
        "xpub": "tcp://10.0.0.5:7002",
        "server_key": "a" * 40,
        "public_key": "b" * 40,
        "secret_key": SECRET,
    }
    return Credentials(**{**made, **fields})


def test_a_token_is_one_printable_line_that_holds_everything():
    """So that it can be pasted into a terminal, a chat or a file."""
    token = credentials().token()
    assert token.isascii()
    assert token.isprintable()
    assert " " not in token
    assert parse_token(f"  {token}\n") == credentials()


@pytest.mark.parametrize("ruin", [lambda t: t[:-7], lambda t: t[:40], lambda t: PREFIX, lambda t: t.replace("trainbus1.", "trainbus9."),
                                  lambda t: t[:30] + "!" + t[31:], lambda t: "hello", lambda t: "", lambda t: t[:50] + t[53:]])  # fmt: skip
def test_a_damaged_token_is_refused_without_being_quoted(ruin):
    """Whoever pasted it wrongly learns what to do; their log learns nothing."""
    token = ruin(credentials().token())
    with pytest.raises(ConfigError) as caught:
        parse_token(token)
    said = f"{caught.value} {caught.value.facts} {caught.value.__cause__}"
    assert "trainbus keys invite" in said
    assert SECRET not in said
    assert not token or token not in said.replace(PREFIX, "") or token == PREFIX


def test_a_token_without_usable_keys_is_refused():
    """Its keys become socket options, which must not fail with a traceback."""
    with pytest.raises(ConfigError, match="no usable keys"):
        parse_token(credentials(secret_key="short").token())


def test_no_representation_shows_a_key():
    """Objects end up in logs and tracebacks."""
    assert SECRET not in repr(credentials())
    assert SECRET not in str(credentials())


def test_a_stored_token_is_for_its_owner_alone(trainbus_home):
    """0600 in a 0700 directory, and found again by its name."""
    path = store_remote(trainbus_home, credentials())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert path.parent.parent.stat().st_mode & 0o777 == 0o700
    assert load_remote(trainbus_home, "laptop") == credentials()


def test_an_unknown_name_is_answered_with_those_that_are_stored(trainbus_home):
    """And what can be no name is not repeated: it may be a secret."""
    store_remote(trainbus_home, credentials())
    with pytest.raises(ConfigError, match="laptop"):
        resolve(trainbus_home, "labtop")
    with pytest.raises(ConfigError) as caught:
        resolve(trainbus_home, f"../{SECRET}")
    assert SECRET not in str(caught.value)


def test_the_environment_names_a_token_or_a_stored_one(trainbus_home, monkeypatch):
    """Both ways lead to the same credentials; nothing in it means the bus of this home."""
    assert chosen(trainbus_home) is None
    monkeypatch.setenv(VARIABLE, credentials().token())
    assert chosen(trainbus_home) == credentials()
    store_remote(trainbus_home, credentials(name="other"))
    monkeypatch.setenv(VARIABLE, "other")
    assert chosen(trainbus_home).name == "other"
    monkeypatch.setenv(VARIABLE, " ")
    assert chosen(trainbus_home) is None
