"""The server gets a checkpoint by itself: by digest, from where it was cut, from allowed hosts only, and nothing but what was asked for."""

from __future__ import annotations

import asyncio
import re
import shutil

import pytest
import xxhash
from aiohttp import web

from tests.serving.tools import answering, running
from tests.support import wait_for
from trainbus.errors import ConfigError
from trainbus.serving import fetching
from trainbus.serving.config import ServeConfig
from trainbus.trainer_node.checkpoints import seal

TOKEN = "one-time"
CONTENT = bytes(range(256)) * 40
DIGEST = xxhash.xxh3_128_hexdigest(CONTENT)
FILES = {"x.json": {"bytes": len(CONTENT), "xxh3": DIGEST}}


@pytest.fixture
def serve(tmp_path):
    """A running server with a store, that may fetch from loopback; it serves nothing yet."""

    def start(**more):
        return running(ServeConfig(**{"device": "cpu", "store": tmp_path / "store", "fetch_from": ("127.0.0.1",)} | more))

    return start


def fetch(server, url, files=FILES, **more):
    return server.client().post("/models/fetch", {"name": "x", "files": files, "url": url, "token": TOKEN, **more})


def problem(reply):
    return reply.body["error"]["message"]


class Source:
    """Offers contents by digest with ranges; remembers what it was asked."""

    def __init__(self, contents):
        self.contents = {xxhash.xxh3_128_hexdigest(content): content for content in contents}
        self.asked: list[tuple[str, str]] = []

    async def answer(self, request):
        assert request.headers["Authorization"] == f"Bearer {TOKEN}"
        begin = int(re.fullmatch(r"bytes=(\d+)-|", request.headers.get("Range", ""))[1] or 0)
        digest = request.path.rpartition("/")[2]
        self.asked.append((digest, begin))
        content = self.contents[digest]
        headers = {"Content-Range": f"bytes {begin}-{len(content) - 1}/{len(content)}"} if begin else {}
        return await self.give(request, web.StreamResponse(status=206 if begin else 200, headers=headers), content[begin:])

    async def give(self, request, response, rest):
        await response.prepare(request)
        await response.write(rest)
        return response


def test_an_adapter_is_fetched_once_and_answers(serve, models, tmp_path):
    """The optimizer is not fetched; under another name, or after a restart, nothing is fetched again."""
    place = shutil.copytree(models / "checkpoint-1", tmp_path / "run" / "checkpoint-1")
    (place / "optimizer.pt").write_bytes(b"x" * 100)
    marker = seal(place, run="r", name="r", step=1)
    files = {name: {"bytes": entry.bytes, "xxh3": entry.xxh3} for name, entry in marker.files.items()}
    source = Source([path.read_bytes() for path in place.iterdir()])
    with answering(source.answer) as url, serve(models={"base": models / "base"}) as server:
        reply = fetch(server, url + "/some/prefix/", files, digest=marker.digest, load=True)
        assert (reply.status, reply.body["state"], reply.body["loaded"]) == (200, "ready", True), reply.body
        answers = [server.client().chat(model=name).body["choices"][0]["message"]["content"] for name in ("x", "base")]
        assert answers[0] != answers[1]
        wanted = {(entry.xxh3, 0) for name, entry in marker.files.items() if name.endswith((".safetensors", ".json"))}
        assert sorted(source.asked) == sorted(wanted)
        assert fetch(server, url, files, name="y").body["id"] == "y"
    with answering(source.answer) as url, serve() as server:
        assert fetch(server, url, files, name="z").body["state"] == "ready"
    assert len(source.asked) == len(wanted)


def test_a_fetch_goes_on_where_it_was_cut(serve):
    """By a range, also after a restart of the server; what came before the cut is kept."""
    source = Source([CONTENT])

    async def cut(request, response, rest):
        response.content_length = len(rest)
        await response.prepare(request)
        await response.write(rest[:3000])
        request.transport.close()
        return response

    whole, source.give = source.give, cut
    with answering(source.answer) as url:
        with serve() as server:
            reply = fetch(server, url)
            assert reply.status == 502, reply.body
        source.give = whole
        with serve() as server:
            fetch(server, url)
            assert server.client().get(f"/blobs/{DIGEST}?bytes={len(CONTENT)}").body["complete"]
    assert source.asked == [(DIGEST, 0), (DIGEST, 3000)]


def test_a_source_that_drips_holds_nobody(serve, monkeypatch):
    """After its time the request answers how far it is, and the next one goes on from there; where nothing comes, it says so."""
    monkeypatch.setattr(fetching, "FETCH_SECONDS", 1.0)
    source = Source([CONTENT])

    async def drip(request, response, rest):
        await response.prepare(request)
        for byte in rest:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.02)
        return response

    async def silent(request, response, rest):
        await asyncio.sleep(3600)

    source.give = drip
    with answering(source.answer) as url, serve() as server:
        reply = wait_for(
            lambda: found if (found := fetch(server, url)).status == 202 else None, 90
        )  # busy: not even a byte may come in time
        assert reply.body["state"] == "incomplete"
        [missing] = reply.body["missing"]
        assert 0 < missing["received"] < len(CONTENT)
        source.give = silent
        reply = fetch(server, url)
        assert (reply.status, "Nothing came" in problem(reply)) == (502, True), reply.body
        assert source.asked[-1] == (DIGEST, missing["received"])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda: web.Response(body=CONTENT[::-1]), "is not the file"),
        (lambda: web.Response(body=CONTENT + b"x"), "gives more than"),
        (lambda: web.Response(body=CONTENT[:-1]), "gave 10239 of the 10240"),
        (lambda: web.Response(body=b"secret", status=500), "HTTP 500"),
        (lambda: web.Response(body=CONTENT, status=206), "from byte 0 on"),
        (lambda: web.HTTPFound("/elsewhere"), "HTTP 302"),
        (lambda: web.HTTPPermanentRedirect("http://example.invalid/"), "HTTP 308"),
        (lambda: web.Response(body=CONTENT, headers={"Content-Encoding": "gzip"}), ""),
    ],
    ids=[
        "another content",
        "too long",
        "too short",
        "an error",
        "a range nobody asked for",
        "redirect",
        "redirect elsewhere",
        "said to be packed",
    ],
)
def test_what_is_not_the_file_is_refused(answer, told, serve):
    """Nothing wrong is kept, no redirect is followed, and what an answer said goes to nobody."""
    paths = []

    async def handler(request):
        paths.append(request.path)
        made = answer()
        if isinstance(made, web.HTTPException):
            raise made
        return made

    with answering(handler) as url, serve() as server:
        reply = fetch(server, url, base="base")
        if told:
            assert reply.status == 502
            assert re.search(told, problem(reply)), reply.body
        assert "secret" not in str(reply.body)
        state = server.client().get(f"/blobs/{DIGEST}?bytes={len(CONTENT)}").body
    assert state["complete"] is (told == "")  # the bytes count, whatever a header says of them
    assert paths == [f"/{DIGEST}"]


def test_a_range_from_elsewhere_is_refused(serve):
    """A source that ignores the range, or gives another one, would put bytes where they don't belong."""
    source = Source([CONTENT])
    with answering(source.answer) as url, serve() as server:
        path = f"/blobs/{DIGEST}?bytes={len(CONTENT)}&offset=0"
        assert server.client()("PUT", path, data=CONTENT[:3000]).status == 200

        async def whole(request, response, rest):
            return web.Response(body=CONTENT)

        source.give = whole
        assert "from byte 3000 on" in problem(fetch(server, url))
        assert server.client().get(path).body == {"received": 3000, "complete": False}


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("http://localhost:{port}", 403),
        ("http://127.0.0.2:{port}", 403),
        ("http://127.1:{port}", 403),
        ("http://2130706433:{port}", 403),
        ("http://[::ffff:127.0.0.1]:{port}", 403),
        ("http://169.254.169.254/latest", 403),
        ("http://127.0.0.1.evil.example:{port}", 403),
        ("http://evil.example:{port}/127.0.0.1", 403),
        ("http://127.0.0.1@evil.example/", 400),
        ("http://evil.example\\@127.0.0.1:{port}", 400),
        ("http://user@127.0.0.1:{port}", 400),
        ("http://127.0.0.1:{port}?x=", 400),
        ("http://127.0.0.1:{port}#", 502),
        ("file:///etc/passwd", 400),
        ("ftp://127.0.0.1", 400),
        ("//127.0.0.1", 400),
        ("", 400),
    ],
)
def test_hosts_that_nobody_allowed_are_never_asked(url, status, serve):
    """However the address is written; so nobody can look into the server's network with it."""
    asked = []

    async def handler(request):
        asked.append(request.path)
        return web.Response(status=500)

    with answering(handler) as source, serve() as server:
        reply = fetch(server, url.format(port=source.rpartition(":")[2]))
    assert reply.status == status, reply.body
    assert bool(asked) is (status == 502)


def test_a_host_may_be_allowed_with_one_port(serve):
    """Then what listens on its other ports is not reached."""
    source = Source([CONTENT])
    with answering(source.answer) as url, serve(fetch_from=("127.0.0.1:1", "trainer.lan")) as server:
        assert fetch(server, url).status == 403
    with answering(source.answer) as url, serve(fetch_from=(url.removeprefix("http://"),)) as server:
        fetch(server, url)
    assert source.asked == [(DIGEST, 0)]


@pytest.mark.parametrize("name", ["../escape.json", "/etc/escape.json", "a/../../escape.json", "nul\0.json"])
def test_hostile_names_write_nothing_outside_the_store(name, serve, tmp_path):
    """They are refused before anything is fetched."""
    source = Source([CONTENT])
    with answering(source.answer) as url, serve() as server:
        assert fetch(server, url, {name: FILES["x.json"]}).status == 400
    assert source.asked == []
    assert not list(tmp_path.rglob("escape*"))


def test_who_may_ask_may_not_have_it_fetch_and_without_hosts_nothing_is_fetched(serve):
    """It is an administrator's right, and off unless hosts are named; the store's limit counts."""
    source = Source([CONTENT])
    with answering(source.answer) as url:
        with serve(read_keys=("reader",), admin_keys=("admin",)) as server:
            assert server.client("reader").post("/models/fetch", {"url": url, "token": TOKEN, "files": FILES}).status == 403
        with serve(fetch_from=()) as server:
            assert (fetch(server, url).status, "--fetch-from" in problem(fetch(server, url))) == (501, True)
        with serve(store_bytes=5_000) as server:
            assert fetch(server, url).status == 507
            assert fetch(server, url, None).status == 400
    assert {begin for _, begin in source.asked} <= {0}
    for hosts in (("http://x",), ("user@x",), ("x:99999",), ("",), ("a b",)):
        with pytest.raises(ConfigError, match="no host to fetch from"), serve(fetch_from=hosts):
            pass
    with pytest.raises(ConfigError, match="needs a place"), serve(store=None):
        pass
