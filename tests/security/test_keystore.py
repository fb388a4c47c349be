"""The broker's book of keys."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from trainbus.bus.broker import keystore
from trainbus.bus.credentials import keys_directory
from trainbus.errors import ConfigError, RefusedError


def invite(root, name, role="observer", **options):
    return keystore.invite(root, name, role, "10.0.0.5", **options)


def test_without_an_invitation_there_are_no_keys(trainbus_home):
    """The bus of one machine needs none, and nothing is written."""
    assert keystore.read_book(trainbus_home) is None
    assert not trainbus_home.exists()


def test_the_first_invitation_makes_the_brokers_keys_and_those_of_this_machine(trainbus_home):
    """Files for their owner alone; the client's secret key is in the token and nowhere here."""
    credentials, _ = invite(trainbus_home, "laptop")
    book = keystore.read_book(trainbus_home)
    assert [(client.name, client.role) for client in book.clients] == [("local", "admin"), ("laptop", "observer")]
    assert credentials.server_key == book.public_key
    directory = keys_directory(trainbus_home)
    assert directory.stat().st_mode & 0o777 == 0o700
    for file in directory.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file
        assert credentials.secret_key not in file.read_text()


def test_a_directory_that_others_could_read_is_closed(trainbus_home):
    """It may have been made by hand, or copied."""
    keys_directory(trainbus_home).mkdir(parents=True, mode=0o755)
    keys_directory(trainbus_home).chmod(0o755)
    invite(trainbus_home, "laptop")
    assert keys_directory(trainbus_home).stat().st_mode & 0o777 == 0o700


def test_a_token_names_ports_that_stay(trainbus_home):
    """Those of the book, until somebody fixes others."""
    one, book = invite(trainbus_home, "one")
    two, _ = invite(trainbus_home, "two")
    assert one.router == two.router == f"tcp://10.0.0.5:{book.ports[0]}"
    fixed, _ = invite(trainbus_home, "three", ports=(1111, 2222))
    assert (fixed.router, fixed.xpub) == ("tcp://10.0.0.5:1111", "tcp://10.0.0.5:2222")


@pytest.mark.parametrize("name", ["local", "plugin", "", "a b", "../x", "-x", "x" * 65, "a:b"])
def test_a_name_that_would_mean_something_else_is_refused(trainbus_home, name):
    """Names become file names and the beginnings of consumers' names: nobody may own ``plugin:...``."""
    with pytest.raises(ConfigError, match="no name for a client"):
        invite(trainbus_home, name)


def test_a_name_is_taken_while_its_key_is_valid(trainbus_home):
    """Then it can be given again; the history stays."""
    invite(trainbus_home, "laptop")
    with pytest.raises(RefusedError, match="already"):
        invite(trainbus_home, "laptop")
    keystore.revoke(trainbus_home, "laptop")
    invite(trainbus_home, "laptop", "operator")
    found = [client for client in keystore.read_book(trainbus_home).clients if client.name == "laptop"]
    assert [client.revoked is None for client in found] == [False, True]
    assert len(keystore.read_book(trainbus_home).valid(time.time_ns())) == 2


def test_revoking_somebody_unknown_names_those_who_are_known(trainbus_home):
    """A misspelt name must not look like a success; and this machine's own key can't be shut out."""
    with pytest.raises(RefusedError, match="no keys"):
        keystore.revoke(trainbus_home, "laptop")
    invite(trainbus_home, "laptop")
    with pytest.raises(RefusedError, match="laptop"):
        keystore.revoke(trainbus_home, "labtop")
    with pytest.raises(RefusedError, match="local"):
        keystore.revoke(trainbus_home, "local")


def test_a_key_expires(trainbus_home):
    """At the moment that it was given until."""
    _, book = invite(trainbus_home, "guest", valid_for=60.0)
    guest = book.clients[-1]
    assert guest.valid(guest.created + 59_000_000_000)
    assert not guest.valid(guest.created + 60_000_000_000)


def test_renewing_the_brokers_keys_voids_every_token(trainbus_home):
    """They name the old key, so they would fail anyway; the book says so."""
    credentials, before = invite(trainbus_home, "laptop")
    after = keystore.rotate(trainbus_home)
    assert after.public_key != before.public_key
    assert [client.name for client in after.valid(time.time_ns()).values()] == ["local"]
    assert after.ports == before.ports
    assert credentials.server_key != after.public_key


@pytest.mark.parametrize("ruin", ["damaged", "gone"])
def test_a_book_that_cant_be_read_never_means_that_there_are_no_keys(trainbus_home, ruin):
    """The broker would let everybody in."""
    invite(trainbus_home, "laptop")
    file = keystore.book_file(trainbus_home)
    secret = keystore.read_book(trainbus_home).secret_key
    if ruin == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ConfigError, match=str(file)) as caught:
        keystore.read_book(trainbus_home)
    assert secret not in str(caught.value)
    with pytest.raises(ConfigError):
        invite(trainbus_home, "other")


def test_invitations_at_the_same_time_all_count(trainbus_home):
    """One process at a time changes the book."""
    names = [f"n{number}" for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: invite(trainbus_home, name), names))
    assert {client.name for client in keystore.read_book(trainbus_home).clients} == {"local", *names}
