"""What `trainbus doctor` says of keys: each fault is found, and its mending is named."""

import json
import time

import pytest

from trainbus.bus.broker import keystore
from trainbus.bus.credentials import keys_directory
from trainbus.cli.key_checks import keys

DAY = 86_400


def by_name(root, now=None):
    return {finding.check: finding for finding in keys(root, now)}


@pytest.fixture
def invited(trainbus_home):
    """A home with a broker's pair, the local key and one observer."""
    trainbus_home.mkdir(parents=True, exist_ok=True)
    credentials, _ = keystore.invite(trainbus_home, "desk", "observer", "127.0.0.1", valid_for=30 * DAY)
    return trainbus_home, credentials


def test_without_keys_nothing_is_wrong(trainbus_home):
    """Most homes have none."""
    assert {name: finding.state for name, finding in by_name(trainbus_home).items()} == {"keys": "ok"}


def test_keys_as_they_are_made_are_fine_and_none_is_shown(invited):
    """Not even their public halves."""
    root, credentials = invited
    found = keys(root)
    assert {finding.state for finding in found} == {"ok"}
    said = " ".join(finding.found + finding.mend for finding in found)
    assert "1 valid, 0 expired, 0 revoked" in said
    for key in (credentials.secret_key, credentials.public_key, credentials.server_key):
        assert key not in said


@pytest.mark.parametrize(("name", "mode"), [("broker.json", 0o644), ("local.json", 0o640), (".", 0o750)])
def test_a_private_key_that_others_may_read_fails_with_the_command_that_mends_it(invited, name, mode):
    """All of them are named, not the first alone."""
    root, _ = invited
    path = keys_directory(root) / name
    path.chmod(mode)
    finding = by_name(root)["key files"]
    assert finding.state == "fail"
    assert f"chmod {700 if name == '.' else 600} {path.resolve() if name != '.' else keys_directory(root)}" in finding.mend
    assert "keys rotate" in finding.mend


def test_a_key_that_has_expired_or_soon_will_is_a_warning_with_the_invitation_that_renews_it(invited):
    """While there is time, and afterwards."""
    root, _ = invited
    soon = by_name(root, time.time_ns() + 25 * DAY * 10**9)["keys"]
    assert (soon.state, "desk expires soon" in soon.found) == ("warn", True)
    later = time.time_ns() + 31 * DAY * 10**9
    over = by_name(root, later)["keys"]
    assert (over.state, "desk has expired" in over.found) == ("warn", True)
    assert "trainbus keys invite desk --role observer" in over.mend


def test_a_holder_who_was_invited_anew_needs_no_further_invitation(trainbus_home):
    """The name has a valid key: the expired one is past."""
    trainbus_home.mkdir(parents=True, exist_ok=True)
    keystore.invite(trainbus_home, "desk", "observer", "127.0.0.1", valid_for=1e-9)
    assert by_name(trainbus_home)["keys"].state == "warn"
    keystore.invite(trainbus_home, "desk", "observer", "127.0.0.1")
    assert by_name(trainbus_home)["keys"].state == "ok"


def test_a_revoked_key_is_counted_and_is_no_fault(invited):
    """Somebody wanted it so."""
    root, _ = invited
    keystore.revoke(root, "desk")
    finding = by_name(root)["keys"]
    assert (finding.state, finding.found) == ("ok", "0 valid, 0 expired, 1 revoked")


def test_a_local_key_that_the_book_does_not_know_fails(invited):
    """Commands on this machine would be turned away."""
    root, _ = invited
    path = keys_directory(root) / "local.json"
    damaged = json.loads(path.read_text()) | {"public_key": "x" * 40}
    path.write_text(json.dumps(damaged))
    finding = by_name(root)["local key"]
    assert (finding.state, "keys rotate" in finding.mend) == ("fail", True)
    path.unlink()
    assert by_name(root)["local key"].state == "fail"


def test_a_book_that_is_gone_or_damaged_fails_with_its_hint(invited):
    """It never means "no keys"."""
    root, _ = invited
    book = keystore.book_file(root)
    book.write_text("{")
    assert by_name(root)["keys"].state == "fail"
    book.unlink()
    finding = by_name(root)["keys"]
    assert (finding.state, finding.mend != "") == ("fail", True)


def test_a_damaged_token_in_the_environment_fails_without_showing_it(trainbus_home, monkeypatch):
    """It was cut when it was copied."""
    monkeypatch.setenv("TRAINBUS_TOKEN", "trainbus1.abcdef")
    finding = by_name(trainbus_home)["token"]
    assert finding.state == "fail"
    assert "abcdef" not in finding.found + finding.mend
