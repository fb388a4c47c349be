"""The contract with `trainbus serve`: registering by path, and sending what it lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plugins.inference.tools import checkpoint, given_up, of
from trainbus.bus.events import MARKER, Eval
from trainbus.errors import ConfigError
from trainbus.plugins.inference import upload

REGISTER, UNLOAD = "/v1/models/register", "/v1/models/unload"


class Store:
    """Takes files by digest as `trainbus serve` does; ``cut`` is after how many chunks the next PUTs fail."""

    def __init__(self, server) -> None:
        self.parts: dict[str, bytes] = {}
        self.ready: list[str] = []
        self.received = 0
        self.cut = -1
        server.routes = {REGISTER: self.register, UNLOAD: lambda body: (200, {"unloaded": True})}
        server.blob = self.blob

    def register(self, body):
        assert len(body["digest"]) == 32
        missing = [
            {"name": name, **file, "received": len(self.parts.get(file["xxh3"], b""))}
            for name, file in body["files"].items()
            if name.endswith((".json", ".safetensors")) and len(self.parts.get(file["xxh3"], "-" * 99)) != file["bytes"]
        ]
        if missing:
            return 202, {"state": "incomplete", "digest": body["digest"], "missing": missing, "chunk_bytes": 1000}
        self.ready.append(body["name"])
        return 200, {"state": "ready", "id": body["name"]}

    def blob(self, method, digest, query, data):
        held = self.parts.get(digest, b"")
        if method == "PUT":
            if self.cut == 0:
                return 503, {"error": {"message": "cut"}}
            self.cut -= 1
            if int(query["offset"]) != len(held):
                return 409, {"error": {"message": "it begins elsewhere"}, "received": len(held)}
            assert len(data) <= 1000
            self.received += len(data)
            held = self.parts[digest] = held + data
        return 200, {"received": len(held), "complete": len(held) == int(query["bytes"])}


@pytest.fixture
def store(server):
    return Store(server)


def test_a_checkpoint_on_a_shared_path_is_registered_loaded_asked_and_let_go(examiner, server, until):
    """Nothing is sent."""
    server.routes = {REGISTER: lambda body: (200, {"state": "ready"}), UNLOAD: lambda body: (200, {"unloaded": True})}
    harness = examiner(engine="trainbus", paths={"/models": "/mnt"}, base="tiny")
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval) and len(server.calls) == 2)
    assert server.calls == [
        (REGISTER, {"name": "r@1:abc", "base": "tiny", "load": True, "path": "/mnt/checkpoint-1"}),
        (UNLOAD, {"model": "r@1:abc"}),
    ]
    assert {body["model"] for body in server.requests} == {"r@1:abc"}


def test_only_what_the_server_lacks_is_sent_in_chunks(examiner, store, sealed, until):
    """Not the optimizer, which it doesn't want, and of the second checkpoint not what the first had, too."""
    harness = examiner(engine="trainbus", upload=True, policy="every")
    harness.feed(checkpoint(1, path=sealed(1, b"a" * 4_500)), checkpoint(2, path=sealed(2, b"b" * 999)))
    until(lambda: len(of(harness, Eval)) == 2)
    assert store.ready == ["r@1:abc", "r@2:abc"]
    assert store.received == 4_500 + 999 + len("{}")
    assert sorted(store.parts.values()) == sorted([b"", b"{}", b"a" * 4_500, b"b" * 999])


def test_an_upload_goes_on_where_it_was_cut(examiner, store, sealed, until):
    """Each byte is taken once, over failures and over a restart of the plugin."""
    store.cut = 2
    first = examiner(engine="trainbus", upload=True, pause=30.0, longest_pause=30.0)
    first.feed(checkpoint(1, path=sealed(1, b"a" * 4_500)))
    until(lambda: first.context.state["pending"][0].get("attempts") == 1)
    first.kill()
    assert 0 < store.received < 4_500
    store.cut = -1
    second = examiner(context=first.context, engine="trainbus", upload=True)
    until(lambda: of(second, Eval))
    assert store.received == 4_500 + len("{}")


def test_another_sender_who_got_further_is_no_fault(examiner, store, server, sealed, until):
    """The server says where it is, and sending goes on there."""
    taken = store.blob

    def ahead(method, digest, query, data):
        if method == "PUT" and query["offset"] == "1000":
            store.parts[digest] += b"a" * 500
            server.blob = taken
        return taken(method, digest, query, data)

    server.blob = ahead
    harness = examiner(engine="trainbus", upload=True, attempts=1)
    harness.feed(checkpoint(1, path=sealed(1, b"a" * 4_500)))
    until(lambda: of(harness, Eval) or given_up(harness))
    assert given_up(harness) == []
    assert b"a" * 4_500 in store.parts.values()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"state": "incomplete", "missing": [{"name": "../../etc/passwd"}]}, "asks for '../../etc/passwd', which is no file of"),
        ({"state": "incomplete", "missing": []}, "still lacks files"),
        ({"state": 7}, "has not the shape of a registration"),
        ("<html>", "is no JSON"),
    ],
)
def test_a_hostile_server_gets_nothing_and_hangs_nothing(answer, told, examiner, server, sealed, until):
    """It is asked a bounded number of times, and never given a file that is not the checkpoint's."""
    server.routes = {REGISTER: lambda body: (202, answer)}
    server.blob = lambda *_: (200, {"received": 0})
    harness = examiner(engine="trainbus", upload=True, attempts=1)
    harness.feed(checkpoint(1, path=sealed(1, b"a")))
    until(lambda: given_up(harness))
    assert told in given_up(harness)[0].message


def test_a_server_that_never_gets_further_is_given_up(examiner, store, server, sealed, until):
    """Otherwise one file would be sent for ever."""
    server.blob = lambda *_: (200, {"received": 0})
    harness = examiner(engine="trainbus", upload=True, attempts=1)
    harness.feed(checkpoint(1, path=sealed(1, b"a" * 4_500)))
    until(lambda: given_up(harness))
    assert "says that it has 0 bytes" in given_up(harness)[0].message


def test_files_without_a_marker_are_digested(tmp_path):
    """As other trainers leave them; the digests are those that a marker would hold."""
    xxhash = pytest.importorskip("xxhash")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "config.json").write_text("{}")
    assert upload.contents_of(tmp_path).files == {"deep/config.json": upload.Content(2, xxhash.xxh3_128_hexdigest(b"{}"))}


def test_a_damaged_marker_and_a_missing_folder_are_said(examiner, server, until, tmp_path):
    """The next checkpoint goes on."""
    (tmp_path / "trainbus_checkpoint.json").write_text('{"files": 3}')
    harness = examiner(engine="trainbus", upload=True, policy="every")
    harness.feed(checkpoint(1, path=str(tmp_path)), checkpoint(2, path=str(tmp_path / "gone")))
    until(lambda: len(given_up(harness)) == 2)
    assert "is damaged" in given_up(harness)[0].message
    assert "can't" in given_up(harness)[1].message


@pytest.mark.parametrize("travel", ["upload", "fetch"])
def test_what_a_marker_names_outside_its_checkpoint_goes_to_nobody(travel, examiner, store, server, sealed, until, tmp_path):
    """Neither by dots nor by a symbolic link: a checkpoint may come from anywhere."""
    (tmp_path / "secret.json").write_text('"secret"')
    dots, link = sealed(1, b"a"), sealed(2, b"a")
    marker = Path(dots) / MARKER
    marker.write_text(marker.read_text().replace('"adapter_config.json"', '"../secret.json"'))
    (Path(link) / "adapter_config.json").unlink()
    (Path(link) / "adapter_config.json").symlink_to(tmp_path / "secret.json")
    server.routes["/v1/models/fetch"] = store.register
    harness = examiner(engine="trainbus", policy="every", **{travel: True})
    harness.feed(checkpoint(1, path=dots), checkpoint(2, path=link))
    until(lambda: len(given_up(harness)) == 2)
    assert all("lies outside the checkpoint" in alert.message for alert in given_up(harness))
    assert b'"secret"' not in store.parts.values()


@pytest.mark.parametrize("travel", ["upload", "fetch"])
def test_servers_that_take_no_checkpoints_are_refused_at_the_start(travel, examiner):
    """With what to set instead."""
    with pytest.raises(ConfigError, match="takes no checkpoints"):
        examiner(engine="vllm", **{travel: True})
