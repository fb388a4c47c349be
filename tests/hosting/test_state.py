"""context.state: changes are found, staged between events, and kept until they are durable."""

import logging

import msgspec
import pytest

from trainbus.bus.hosting.state import StateStore

encode = msgspec.msgpack.encode


@pytest.fixture
def store():
    return StateStore({"count": encode(3), "window": encode([1, 2])}, logging.getLogger("test"))


def test_values_come_back_as_they_were_stored(store):
    """Decoded, and nothing is staged for reading them."""
    assert dict(store) == {"count": 3, "window": [1, 2]}
    assert store.stage() == {}


def test_assigned_and_deleted_keys_are_staged(store):
    """A deleted key is None, as the broker takes it."""
    store["count"] = 4
    del store["window"]
    assert store.stage() == {"count": encode(4), "window": None}


def test_changes_in_place_are_found_also_through_a_reference_kept_from_earlier(store):
    """The usual slip of such stores: `window = context.state["window"]` at start, append in every hook."""
    window = store["window"]
    window.append(3)
    batch = store.stage()
    assert batch == {"window": encode([1, 2, 3])}
    store.saved(batch)
    window.append(4)
    assert store.stage() == {"window": encode([1, 2, 3, 4])}
    fresh = store["fresh"] = []
    store.saved(store.stage())
    fresh.append(1)
    assert store.stage() == {"fresh": encode([1])}


def test_what_was_not_saved_is_staged_again(store):
    """A commit that failed loses nothing."""
    store["count"] = 4
    store.stage()
    assert store.stage() == {"count": encode(4)}


def test_a_change_during_the_commit_is_not_taken_for_saved(store):
    """The newer value stays to be sent."""
    store["count"] = 4
    sent = store.stage()
    store["count"] = 5
    store.stage()
    store.saved(sent)
    assert store.stage() == {"count": encode(5)}
    store.saved(store.stage())
    assert store.stage() == {}


def test_a_value_that_can_t_be_stored_is_told_and_the_others_are_kept(caplog):
    """One bad value does not hold up the cursor."""
    store = StateStore({}, logging.getLogger("test"))
    store["bad"] = object()
    store["good"] = 1
    assert store.stage() == {"good": encode(1)}
    assert "context.state['bad'] can't be stored" in caplog.text


def test_a_key_is_text(store):
    """An int would come back as text after a restart."""
    with pytest.raises(TypeError, match="is a str, not int"):
        store[1] = 2
