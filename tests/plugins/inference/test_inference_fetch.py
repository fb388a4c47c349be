"""The contract with `trainbus serve --fetch-from`: what the plugin offers, to whom, for how long, and what a server can't make of it."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from tests.plugins.inference.tools import checkpoint, given_up, of
from trainbus.bus.events import Eval
from trainbus.errors import ConfigError

FETCH, UNLOAD = "/v1/models/fetch", "/v1/models/unload"
WEIGHTS = bytes(range(256)) * 1_000


def get(url, token, begin=0, method="GET"):
    """Status and body, as another program would ask."""
    headers = {"Authorization": f"Bearer {token}"} | ({"Range": f"bytes={begin}-"} if begin else {})
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers, method=method), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


class Fetching:
    """Gets files as `trainbus serve` does, at most ``a_round`` bytes at a time; ``fails`` is how many rounds break before they begin."""

    def __init__(self, server) -> None:
        self.parts: dict[str, bytes] = {}
        self.offers: list[tuple[str, str]] = []
        self.a_round = len(WEIGHTS)
        self.ready = False
        server.routes = {FETCH: self.fetch, UNLOAD: lambda body: (200, {"unloaded": True})}

    def fetch(self, body):
        self.offers.append((body["url"], body["token"]))
        budget, missing = self.a_round, []
        for name, file in body["files"].items():
            if not name.endswith((".json", ".safetensors")):
                continue
            held = self.parts.get(file["xxh3"], b"")
            if budget and len(held) < file["bytes"]:
                status, rest = get(f"{body['url']}/{file['xxh3']}", body["token"], len(held))
                assert status == (206 if held else 200)
                held += rest[:budget]
                budget -= min(budget, len(rest))
                self.parts[file["xxh3"]] = held
            if len(held) < file["bytes"]:
                missing.append({"name": name, **file, "received": len(held)})
        self.ready = not missing
        return (200, {"state": "ready"}) if self.ready else (202, {"state": "incomplete", "missing": missing})


@pytest.fixture
def fetching(server):
    return Fetching(server)


def test_the_server_gets_the_files_by_ranges_while_it_fetches_and_not_after(examiner, fetching, sealed, until):
    """It is asked again as long as it gets on; each checkpoint has a word of its own, and when it is there nothing listens."""
    fetching.a_round = 70_000
    harness = examiner(engine="trainbus", fetch=True, policy="every")
    harness.feed(checkpoint(1, path=sealed(1, WEIGHTS)), checkpoint(2, path=sealed(2, WEIGHTS[::-1])))
    until(lambda: len(of(harness, Eval)) == 2 or given_up(harness))
    assert given_up(harness) == []
    assert sorted(fetching.parts.values()) == sorted([b"{}", WEIGHTS, WEIGHTS[::-1]])
    assert len(set(fetching.offers)) == 2
    assert len(fetching.offers) > 2
    for url, token in set(fetching.offers):
        assert url.startswith("http://127.0.0.1:")
        with pytest.raises(urllib.error.URLError):
            get(url, token)


def test_nothing_but_the_files_is_offered_and_only_for_the_word(examiner, fetching, server, sealed, until, tmp_path):
    """No names, no paths, no list, no writing, no other word."""
    (tmp_path / "secret").write_text("secret")
    found = {}

    def fetch(body):
        url, token, weights = body["url"], body["token"], body["files"]["adapter_model.safetensors"]["xxh3"]
        for word in (token + "x", token[:-1], ""):
            found[word] = get(f"{url}/{weights}", word)[0]
        paths = ("", "adapter_config.json", "../secret", "..%2fsecret", "%2e%2e/secret", "0" * 32, "trainbus_checkpoint.json")
        for path in paths:
            found[path or "/"] = get(f"{url}/{path}", token)[0]
        for method in ("PUT", "POST", "DELETE"):
            found[method] = get(f"{url}/{weights}", token, method=method)[0]
        return fetching.fetch(body)

    server.routes[FETCH] = fetch
    harness = examiner(engine="trainbus", fetch=True)
    harness.feed(checkpoint(1, path=sealed(1, WEIGHTS)))
    until(lambda: of(harness, Eval) or given_up(harness))
    assert given_up(harness) == []
    assert {found.pop(method) for method in ("PUT", "POST", "DELETE")} == {405}
    assert sorted(found.values()) == [401] * 3 + [404] * 7


def test_a_killed_plugin_offers_anew_and_the_server_goes_on(examiner, fetching, server, sealed, until):
    """With another word; what the server has it keeps."""
    fetching.a_round = 70_000
    fetched = []

    def once(body):
        fetched.append(fetching.fetch(body))
        return 503, {"error": {"message": "cut"}}

    server.routes[FETCH] = once
    first = examiner(engine="trainbus", fetch=True, pause=30.0, longest_pause=30.0)
    first.feed(checkpoint(1, path=sealed(1, WEIGHTS)))
    until(lambda: first.context.state["pending"][0].get("attempts") == 1)
    first.kill()
    server.routes[FETCH] = fetching.fetch
    second = examiner(context=first.context, engine="trainbus", fetch=True)
    until(lambda: of(second, Eval))
    assert len(fetched) == 1
    assert len(set(fetching.offers)) == 2
    assert WEIGHTS in fetching.parts.values()


@pytest.mark.parametrize(
    ("status", "answer", "told"),
    [
        (202, {"state": "incomplete", "missing": [{"name": "../../etc/passwd"}]}, "asks for '../../etc/passwd', which is no file of"),
        (202, {"state": "incomplete", "missing": []}, "too slowly"),
        (202, {"state": "incomplete", "missing": [{"name": "adapter_model.safetensors", "received": -(10**18)}]}, "too slowly"),
        (202, {"state": 7}, "has not the shape of a registration"),
        (
            403,
            {"error": {"message": "This server may not fetch from 127.0.0.1:1. Its owner allows hosts by --fetch-from."}},
            "--fetch-from",
        ),
        (501, {"error": {"message": "This server fetches nothing."}}, "fetches nothing"),
        (502, {"error": {"message": "127.0.0.1 could not be asked"}}, "could not be asked"),
    ],
)
def test_a_server_that_does_not_get_on_is_given_up_with_its_words(status, answer, told, examiner, server, sealed, until):
    """It is asked a bounded number of times, and the next checkpoint goes on."""
    server.routes = {FETCH: lambda body: (status, answer)}
    harness = examiner(engine="trainbus", fetch=True, attempts=1)
    harness.feed(checkpoint(1, path=sealed(1, WEIGHTS)))
    until(lambda: given_up(harness))
    assert told in given_up(harness)[0].message
    assert len(server.calls) <= 3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"upload": True}, "both"),
        ({"offer_bind": "127.0.0.1"}, "offer_bind"),
        ({"offer_bind": "127.0.0.1:99999"}, "offer_bind"),
        ({"offer_bind": "http://127.0.0.1:1"}, "offer_bind"),
        ({"offer_bind": "0.0.0.0:8791"}, "no server can be told"),
        ({"offer_url": "trainer.lan:8791"}, "offer_url"),
    ],
)
def test_settings_that_can_t_work_are_refused_at_the_start(settings, told, examiner):
    """With the key."""
    with pytest.raises(ConfigError, match=told):
        examiner(engine="trainbus", fetch=True, **settings)


def test_an_address_that_is_taken_costs_the_checkpoint_a_try(examiner, server, fetching, sealed, until):
    """And is said; the server may be told another address than the bound one, as behind a tunnel."""
    harness = examiner(engine="trainbus", fetch=True, attempts=1, offer_bind=f"127.0.0.1:{server.port}")
    harness.feed(checkpoint(1, path=sealed(1, WEIGHTS)))
    until(lambda: given_up(harness))
    assert "can't be bound" in given_up(harness)[0].message
    told = []
    server.routes = {FETCH: lambda body: (told.append(body["url"]), (200, {"state": "ready"}))[1]}
    other = examiner(engine="trainbus", fetch=True, offer_url="https://tunnel.example/x/")
    other.feed(checkpoint(2, path=sealed(2, WEIGHTS)))
    until(lambda: told)
    assert told == ["https://tunnel.example/x"]
