"""Models come, are swapped and go: by name, path, vLLM's adapters and uploads; never from outside what was allowed."""

from __future__ import annotations

import json
import shutil
import threading

import pytest
import xxhash

from tests.serving.conftest import make_adapter, make_model
from tests.serving.tools import running
from tests.support import wait_for
from trainbus.errors import ConfigError, ModelError
from trainbus.serving.config import ServeConfig
from trainbus.trainer_node.checkpoints import seal


@pytest.fixture
def serve(models):
    """A running server over the base, with more settings."""

    def start(**more):
        return running(ServeConfig(**{"models": {"base": models / "base"}, "device": "cpu", **more}))

    return start


def text(client, model=""):
    reply = client.chat(model=model)
    assert reply.status == 200, reply.body
    return reply.body["choices"][0]["message"]["content"]


def test_adapters_come_and_go_in_vllm_s_form(serve, models):
    """Its words and statuses, on which clients rely; the base stays loaded."""
    with serve(roots=(models,)) as server:
        client = server.client()
        base = text(client)
        load = {"lora_name": "step-1", "lora_path": str(models / "checkpoint-1")}
        assert client.post("/v1/load_lora_adapter", load).body == "Success: LoRA adapter 'step-1' added successfully."
        assert text(client, "step-1") != base
        again = client.post("/v1/load_lora_adapter", load)
        assert again.status == 400
        assert "has already been loaded" in again.body["error"]["message"]
        assert client.post("/v1/load_lora_adapter", {"lora_name": "x"}).status == 400
        for path in (models / "nowhere", "/etc", models / "checkpoint-1" / ".." / ".."):
            missing = client.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(path)})
            assert (missing.status, missing.body["error"]["type"]) == (404, "NotFoundError")
        assert client.post("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": str(models / "base")}).status == 400
        listed = {one["id"]: one["parent"] for one in client.get("/v1/models").body["data"]}
        assert listed == {"base": None, "step-1": "base"}
        first = text(client, "step-1")
        other = {"lora_name": "step-1", "lora_path": str(models / "checkpoint-2"), "load_inplace": True}
        assert client.post("/v1/load_lora_adapter", other).status == 200
        assert text(client, "step-1") not in (first, base)
        assert (
            client.post("/v1/unload_lora_adapter", {"lora_name": "step-1"}).body == "Success: LoRA adapter 'step-1' removed successfully."
        )
        gone = client.post("/v1/unload_lora_adapter", {"lora_name": "step-1"})
        assert (gone.status, "cannot be found" in gone.body["error"]["message"]) == (404, True)
        assert client.chat(model="step-1").status == 404
        assert text(client) == base
        assert client.get("/info").body["residency"]["loads"] == 1  # the base was read once


def test_the_active_model_is_asked_when_none_is_named(serve, models):
    """And swapped by name; its facts are told."""
    with serve(models={"base": models / "base", "one": models / "checkpoint-1"}) as server:
        client = server.client()
        assert client.get("/models/active").body["id"] == "base"
        told = client.post("/models/set_active", {"model": "one"}).body
        assert (told["kind"], told["base"], told["loaded"], told["active"]) == ("adapter", "base", True, True)
        assert text(client) == text(client, "one") != text(client, "base")
        assert client.post("/models/unload", {"model": "one"}).body["unloaded"]
        assert not client.get("/models").body["models"][1]["loaded"]
        assert client.post("/models/load", {"model": "one"}).body["loaded"]
        assert client.post("/models/set_active", {"model": "nobody"}).status == 404


def test_the_least_recently_used_model_goes_when_there_is_no_room(serve, models, tmp_path):
    """Under a budget for two of three; one that needs more than all is refused, and what is being asked stays."""
    others = {name: make_model(tmp_path / name, seed=seed) for name, seed in (("b", 5), ("c", 6))}
    size = (models / "base" / "model.safetensors").stat().st_size
    with serve(models={"a": models / "base", **others}, memory_bytes=int(2.5 * size)) as server:
        client = server.client()
        answers = {name: text(client, name) for name in ("a", "b", "a", "c")}
        assert len(set(answers.values())) == 3
        assert set(client.get("/info").body["residency"]["loaded"]) == {"a", "c"}
        assert text(client, "b") == answers["b"]
        info = client.get("/info").body["residency"]
        assert set(info["loaded"]) == {"b", "c"}
        assert (info["loads"], info["unloads"]) == (4, 2)
    with serve(memory_bytes=size // 2) as server:
        assert "needs" in server.client().chat().body["error"]["message"]


def test_what_is_in_use_is_not_unloaded(serve, models):
    """Unloading and making room wait for nobody: they say that it is busy."""
    with serve(models={"a": models / "base"}, memory_bytes=1 << 30) as server:
        client = server.client()
        thread = threading.Thread(target=lambda: client.chat(max_tokens=300))
        thread.start()
        wait_for(lambda: any(one.stats().active for one in server.server.residency.generators().values()), 60)
        busy = client.post("/models/unload", {"model": "a"})
        thread.join(90)
        # Where the machine was so slow to ask that the answer was done, it was free.
        assert busy.status in (429, 200)
        if busy.status == 429:
            assert busy.headers["Retry-After"]
            assert client.post("/models/unload", {"model": "a"}).body["unloaded"]


def test_a_checkpoint_that_is_written_again_is_read_again(serve, models, tmp_path):
    """A resumed training writes the same folder: the new weights answer, by the same path."""
    place = shutil.copytree(models / "checkpoint-1", tmp_path / "runs" / "checkpoint-1")
    with serve(roots=(tmp_path,), max_adapters=1) as server:
        client = server.client()
        before = text(client, str(place))
        make_adapter(models / "base", place, 2)
        assert text(client, str(place)) != before
        shutil.copytree(place, tmp_path / "runs" / "checkpoint-2")
        (place / "adapter_model.safetensors").rename(tmp_path / "kept")
        assert client.chat(model=str(place)).status == 404  # retention has deleted it: asking again is of no use
        (place / "adapter_model.safetensors").write_bytes(b"torn")
        assert client.chat(model=str(place)).status == 422
        (tmp_path / "kept").rename(place / "adapter_model.safetensors")
        assert text(client, str(tmp_path / "runs" / "checkpoint-2")) == text(client, str(place))


def test_paths_of_another_machine_are_mapped(serve, models):
    """The longest prefix counts; whole parts of the path."""
    with serve(roots=(models,), paths={"/cluster": "/nowhere", "/cluster/runs": str(models)}) as server:
        client = server.client()
        assert text(client, "/cluster/runs/checkpoint-1") == text(client, str(models / "checkpoint-1"))
        assert client.chat(model="/cluster/runs-not/checkpoint-1").status == 404
        assert client.post("/models/register", {"name": "x", "path": "/cluster/runs/checkpoint-2"}).body["state"] == "ready"
        assert text(client, "x") == text(client, str(models / "checkpoint-2"))


def test_nothing_outside_the_allowed_folders_is_read(serve, models, tmp_path):
    """Not by dots, not by symbolic links, not as a set of questions."""
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (allowed / "link").symlink_to(models / "checkpoint-1")
    (tmp_path / "questions.jsonl").write_text('{"question": "a", "answer": "b"}\n')
    with serve(roots=(allowed,)) as server:
        client = server.client()
        for path in (allowed / "link", allowed / ".." / "x", models / "checkpoint-1", "~/x", "relative/x", "/\0", "/proc/self"):
            assert client.chat(model=str(path)).status == 404, path
            assert client.post("/models/register", {"name": "x", "path": str(path)}).status == 404, path
        for path in (tmp_path / "questions.jsonl", allowed / ".." / "questions.jsonl"):
            assert client.post("/eval/jobs", {"dataset": str(path)}).status == 404
        assert client.get("/models/../../etc/passwd").status == 404


def upload(client, place, name, chunk=10_000, **more):
    """As a client would: tell the marker's list, send what is missing in chunks, tell it again."""
    marker = seal(place, run="r", name="r", step=1)
    files = {file: {"bytes": entry.bytes, "xxh3": entry.xxh3} for file, entry in marker.files.items()}
    body = {"name": name, "digest": marker.digest, "files": files, **more}
    reply = client.post("/models/register", body)
    sent = 0
    for missing in reply.body.get("missing", []):
        content = (place / missing["name"]).read_bytes()
        for at in range(missing["received"], len(content), chunk):
            part = content[at : at + chunk]
            path = f"/blobs/{missing['xxh3']}?bytes={missing['bytes']}&offset={at}"
            answer = client("PUT", path, data=part, headers={"X-Chunk-XXH3": xxhash.xxh3_128_hexdigest(part)})
            assert answer.status == 200, answer.body
            sent += len(part)
    return (client.post("/models/register", body) if sent else reply), sent, marker


def test_an_adapter_is_sent_in_chunks_and_only_what_is_missing(serve, models, tmp_path):
    """It answers like the one on the disk; the second time nothing is sent; after a restart it is still there; deleted it is gone."""
    place = shutil.copytree(models / "checkpoint-1", tmp_path / "run" / "checkpoint-1")
    (place / "optimizer.pt").write_bytes(b"x" * 100)
    store = tmp_path / "store"
    with serve(store=store) as server:
        client = server.client()
        reply, sent, marker = upload(client, place, "step-1", load=True)
        assert (reply.status, reply.body["state"], reply.body["digest"]) == (200, "ready", marker.digest)
        assert sent == sum(entry.bytes for file, entry in marker.files.items() if not file.endswith((".pt", ".md")))
        answer = text(client, "step-1")
        assert answer == text(client, marker.digest) != text(client)
        reply, sent, _ = upload(client, place, "other-name")
        assert (reply.body["state"], sent) == ("ready", 0)
        assert not list(store.rglob("*.pt"))
    with serve(store=store) as server:
        client = server.client()
        assert text(client, "step-1") == text(client, "other-name") == answer
        for name in ("step-1", "other-name"):
            assert client("DELETE", f"/models/{name}").body["deleted"]
        assert not [file for file in store.rglob("*") if file.is_file()]
        assert client.chat(model="step-1").status == 404


def test_an_upload_goes_on_where_it_was_cut(serve, models, tmp_path):
    """After a restart the server tells how much is there; chunks that are wrong, early or changed are refused without harm."""
    content = (models / "checkpoint-1" / "adapter_model.safetensors").read_bytes()
    digest = xxhash.xxh3_128_hexdigest(content)

    def put(client, at, part, digest=digest, total=None, **headers):
        return client("PUT", f"/blobs/{digest}?bytes={total or len(content)}&offset={at}", data=part, headers=headers)

    with serve(store=tmp_path / "store") as server:
        assert put(server.client(), 0, content[:5000]).body["received"] == 5000
    with serve(store=tmp_path / "store") as server:
        client = server.client()
        assert client.get(f"/blobs/{digest}?bytes={len(content)}").body == {"received": 5000, "complete": False}
        for at, part, headers in ((9000, content[9000:9100], {}), (5000, content[5000:6000], {"X-Chunk-XXH3": "0" * 32})):
            conflict = put(client, at, part, **headers)
            assert (conflict.status, conflict.body["received"]) == (409, 5000)
        assert put(client, 0, content[:5000]).body["received"] == 5000  # sent twice changes nothing
        assert put(client, 5000, content[5000:]).body["complete"]
        wrong = put(client, 0, b"not what was said", digest="ab" * 16, total=17)
        assert (wrong.status, wrong.body["received"]) == (409, 0)
        for path in ("/blobs/..%2f..%2fx?bytes=1&offset=0", f"/blobs/{'g' * 32}?bytes=1&offset=0", f"/blobs/{digest}?bytes=-1&offset=0"):
            assert client("PUT", path, data=b"x").status in (400, 404)
        assert put(client, 0, b"x" * (17 << 20), digest="ac" * 16, total=17 << 20).status == 413


@pytest.mark.parametrize("name", ["../escape.json", "/etc/escape.json", "a/../../escape.json", "a\\..\\escape.json", "nul\0.json"])
def test_hostile_names_write_nothing_outside_the_store(serve, tmp_path, name):
    """They are refused before anything is sent."""
    with serve(store=tmp_path / "store") as server:
        reply = server.client().post("/models/register", {"name": "x", "files": {name: {"bytes": 0, "xxh3": "0" * 32}}})
        assert reply.status == 400
    assert not list(tmp_path.rglob("escape*"))


def test_what_is_sent_is_checked_as_everything_is(serve, models, tmp_path):
    """A list that is not the digest's, something that is no model, a store that is full, a server without a store."""
    place = shutil.copytree(models / "checkpoint-1", tmp_path / "checkpoint-1")
    files = {"x.json": {"bytes": 0, "xxh3": "0" * 32}}
    with serve(store=tmp_path / "store", store_bytes=2_000) as server:
        client = server.client()
        assert client.post("/models/register", {"name": "x", "files": files, "digest": "f" * 32}).status == 409
        assert client.post("/models/register", {"name": "x", "files": files}).status == 400
        assert client.post("/models/register", {"name": "x", "files": files, "path": "/x"}).status == 400
        marker = seal(place, run="r", name="r", step=1)
        entry = marker.files["adapter_model.safetensors"]
        assert client("PUT", f"/blobs/{entry.xxh3}?bytes={entry.bytes}&offset=0", data=b"x").status == 507
    with serve() as server:
        assert server.client().post("/models/register", {"name": "x", "files": files}).status == 501


def test_older_uploads_make_room_for_new_ones(serve, models, tmp_path):
    """The one used longest ago goes, and what is loaded stays."""
    places = [make_adapter(models / "base", tmp_path / f"checkpoint-{number}", number) for number in range(3)]
    size = (places[0] / "adapter_model.safetensors").stat().st_size
    with serve(store=tmp_path / "store", store_bytes=int(2.6 * size)) as server:
        client = server.client()
        for number, place in enumerate(places):
            reply, _, _ = upload(client, place, f"step-{number}", chunk=1 << 20, load=number == 0)
            assert reply.status == 200
        assert [one["id"] for one in client.get("/models").body["models"]] == ["base", "step-0", "step-2"]


def test_keys_separate_asking_from_administering(serve, models):
    """Health is open, asking needs a key, changing needs the other one; a page of another site gets nothing."""
    with serve(read_keys=("reader",), admin_keys=("admin",), roots=(models,)) as server:
        nobody, wrong, reader, admin = (server.client(key) for key in ("", "readers", "reader", "admin"))
        assert nobody.get("/health").body == {"status": "ok"}
        for one in (nobody, wrong):
            assert one.chat().status == 401
            assert one.get("/nowhere").status == 401
        assert (reader.chat().status, admin.chat().status) == (200, 200)
        for path in ("/models/set_active", "/models/register", "/v1/load_lora_adapter", "/power"):
            assert reader.post(path, {}).status == 403
        assert (reader.get("/logs").status, admin.get("/logs").status) == (403, 200)
        assert nobody.get("/info", headers={"X-API-Key": "reader"}).status == 200
        assert not any(key in json.dumps(admin.get("/logs").body) for key in ("reader", "admin"))
        assert admin.get("/health", headers={"Origin": "http://evil.example"}).status == 403
    with serve() as server:
        client = server.client()
        assert client.get("/info", headers={"Host": "evil.example"}).status == 403
        assert client.get("/info", headers={"Sec-Fetch-Site": "cross-site"}).status == 403
        assert client.get("/info").status == 200
    with pytest.raises(ConfigError, match="no key"):
        ServeConfig(host="0.0.0.0", read_keys=("reader",))


def test_a_folder_that_is_no_model_is_refused_at_the_start(serve, tmp_path):
    """Before anything is bound."""
    with pytest.raises(ModelError, match="config"), serve(models={"x": tmp_path}):
        pass
