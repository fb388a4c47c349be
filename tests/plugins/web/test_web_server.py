import contextlib
import http.client
import json
import re
import socket

import pytest

from tests.plugins.web.story import training
from trainbus.bus.events import Sample, Step
from trainbus.errors import ConfigError
from trainbus.plugins.web import feed as feeding
from trainbus.testing.context import MemoryContext


def step(number, **metrics):
    return Step(run="r", step=number, time=number, metrics=metrics or {"loss": 1.0})


def read_ids(connection, count):
    """The ids of the next ``count`` events of an open stream."""
    answer, ids = connection.getresponse(), []
    while len(ids) < count:
        line = answer.readline()
        assert line, "the stream ended"
        if match := re.match(rb"id: (\d+)", line):
            ids.append(int(match[1]))
    return ids


def test_the_api_answers_what_the_events_said(dashboard):
    """State, runs, one run, its series, health."""
    board = dashboard()
    board.feed(*training())
    state = board.get("/api/state")
    assert [run["run"] for run in state["runs"]] == ["qwen3-gsm8k"]
    assert state["run"]["step"] == 400
    assert len(state["plugins"]) == 5
    assert board.get("/api/runs/qwen3-gsm8k")["checkpoints"][0]["step"] == 400
    series = board.get("/api/runs/qwen3-gsm8k/series?metric=loss&metric=grad_norm&points=100&from=100&to=350")["series"]
    assert [entry["metric"] for entry in series] == ["loss", "grad_norm"]
    assert series[0]["gaps"][0]["first"] == 300
    assert 100 <= series[0]["steps"][0] < series[0]["steps"][-1] <= 350
    assert len(series[0]["steps"]) <= 100
    assert board.get("/healthz")["ready"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/runs/none", 404),
        ("/api/runs/none/series?metric=loss", 404),
        ("/api/runs/r/series", 400),
        ("/api/runs/r/series?metric=loss&points=many", 400),
        ("/api/runs/r/series?metric=loss&from=99999999999999999999", 400),
        ("/api/events?after=x", 400),
        ("/static/", 404),
        ("/static", 404),
        ("/static/../plugin.py", 404),
        ("/static/%2e%2e/plugin.py", 404),
        ("/static/..%2fplugin.py", 404),
        ("/../../../../etc/passwd", 404),
        ("/static/first.js%00", 404),
    ],
)
def test_what_does_not_exist_is_refused_with_a_reason(path, status, dashboard):
    """No listing, no way out of the page's files, no traceback."""
    board = dashboard()
    board.feed(step(1))
    answered, headers, body = board.ask(path)
    assert answered == status
    assert json.loads(body)["problem"]
    assert headers["x-content-type-options"] == "nosniff"


def test_nothing_can_be_changed_from_here(dashboard):
    """The page only reads."""
    assert dashboard().ask("/api/runs", method="POST")[0] == 405


def test_every_answer_carries_the_security_headers(dashboard):
    """No inline script, no foreign host, no frame, no sniffing, no referrer; also on errors and streams."""
    board = dashboard()
    for path in ("/", "/static/first.js", "/api/state", "/none", "/api/events"):
        connection = board.open(path)
        answer = connection.getresponse()
        policy = answer.getheader("Content-Security-Policy")
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert answer.getheader("Referrer-Policy") == "no-referrer"
        connection.close()


def test_files_are_compressed_and_not_sent_twice(dashboard):
    """The page weighs less than 200 kB, and a browser that has a file is told so."""
    board = dashboard()
    weight = 0
    for path, asset in board.plugin._server.assets.items():
        status, headers, body = board.ask(path, Accept_Encoding="gzip")
        weight += len(body)
        assert (status, headers["content-encoding"], headers["content-type"]) == (200, "gzip", asset.content_type)
        assert board.ask(path, If_None_Match=headers["etag"])[0] == 304
    assert weight < 200_000


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:80"}, 200),
        ({"Host": "friend.example"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost", "Origin": "http://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
        ({"Host": "localhost", "Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "cors"}, 403),
        ({"Host": "localhost", "Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 200),
    ],
)
def test_other_sites_in_the_browser_are_kept_out(headers, status, dashboard):
    """By the name under which the server is reached, and by where a request comes from."""
    assert dashboard(allowed_hosts=["Friend.example"]).ask("/api/state", **headers)[0] == status


def printed(caplog):
    """The code of the link that was printed last."""
    return [match[1] for record in caplog.records if (match := re.search(r"works once.*\?token=([\w-]+)", record.getMessage()))][-1]


def test_an_address_that_others_reach_demands_a_token_whose_link_works_once(dashboard, tmp_path, caplog):
    """Nobody publishes a training by accident. The link gives a cookie, which holds over a restart; the token itself is never printed."""
    caplog.set_level("INFO")
    board = dashboard(bind="0.0.0.0")
    assert board.ask("/api/state")[0] == 401
    code = printed(caplog)
    status, headers, _ = board.ask(f"/?token={code}")
    assert (status, headers["location"]) == (303, "/")
    assert "HttpOnly" in headers["set-cookie"]
    cookie = headers["set-cookie"].split(";")[0]
    assert board.ask(f"/?token={code}")[0] == 401
    assert json.loads(board.ask("/api/state", Cookie=cookie)[2])["role"] == "operator"
    kept = tmp_path / "token"
    assert cookie.endswith(kept.read_text().strip())
    assert kept.stat().st_mode & 0o077 == 0
    assert kept.read_text().strip() not in caplog.text
    assert "0.0.0.0" not in board.url
    again = dashboard(bind="0.0.0.0")
    assert again.ask("/api/state", Cookie=cookie)[0] == 200


def test_a_printed_link_gives_what_the_configured_token_gives_and_grows_old(dashboard, caplog, monkeypatch):
    """A viewer's link where only reading is configured; after an hour it is worth nothing."""
    caplog.set_level("INFO")
    board = dashboard(bind="0.0.0.0", token="look")
    _, headers, _ = board.ask(f"/?token={printed(caplog)}")
    assert headers["set-cookie"].startswith("trainbus_token=look;")
    monkeypatch.setattr("trainbus.plugins.web.tokens.LINK_SECONDS", -1.0)
    old = dashboard(bind="0.0.0.0", token="look")
    assert old.ask(f"/?token={printed(caplog)}")[0] == 401
    assert not any("works once" in record.getMessage() and "127.0.0.1" in record.getMessage() for record in caplog.records)


def test_with_a_token_nothing_is_read_without_it(dashboard):
    """It comes as a bearer, or once by the address, from where it moves into a cookie that scripts can't read."""
    board = dashboard(token="sesame")
    assert board.ask("/api/state")[0] == 401
    assert board.ask("/")[0] == 401
    assert board.ask("/?token=wrong")[0] == 401
    assert board.ask("/api/state", Authorization="Bearer wrong")[0] == 401
    assert board.ask("/api/state", Authorization="Bearer sesame")[0] == 200
    status, headers, _ = board.ask("/?token=sesame&run=r")
    assert (status, headers["location"]) == (303, "/?run=r")
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=Strict" in headers["set-cookie"]
    assert board.ask("/api/state", Cookie=headers["set-cookie"].split(";")[0])[0] == 200


def test_a_configured_port_that_is_taken_is_a_clear_error(dashboard):
    """It names the key and says what to do."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(ConfigError) as caught:
            dashboard(port=taken.getsockname()[1])
        assert caught.value.facts["key"] == "plugin.web.port"
        assert "Choose another one" in caught.value.hint


def test_two_dashboards_find_two_ports_and_say_which(dashboard):
    """Without a configured port the next free one is taken."""
    first, second = dashboard(port=None), dashboard(port=None)
    assert first.url != second.url
    assert first.get("/healthz")
    assert second.get("/healthz")


def test_the_stream_goes_on_from_any_offset_without_a_gap(dashboard):
    """History, then live; the browser's last id wins over the address."""
    board = dashboard()
    board.feed(*(step(n) for n in range(10)))
    connection = board.open("/api/events?after=2", Last_Event_ID="4")
    answer_ids = []
    board.feed(*(step(n) for n in range(10, 15)))
    answer_ids = read_ids(connection, 10)
    assert answer_ids == list(range(5, 15))
    connection.close()


def test_a_client_that_was_away_over_a_restart_misses_nothing(dashboard):
    """The offsets are the journal's, so they outlive the server."""
    context = MemoryContext(name="web")
    first = dashboard(context=context)
    first.feed(*(step(n) for n in range(5)))
    connection = first.open("/api/events?after=-1")
    assert read_ids(connection, 5)[-1] == 4
    connection.close()
    first.close()
    second = dashboard(context=context)
    second.feed(step(5))
    connection = second.open("/api/events?after=4")
    assert read_ids(connection, 1) == [5]
    connection.close()


def test_a_stream_without_an_offset_begins_now(dashboard, until):
    """As `curl` would want it."""
    board = dashboard()
    board.feed(step(1), step(2))
    connection = board.open("/api/events")
    until(lambda: board.get("/healthz")["streams"] == 1)
    board.feed(step(3))
    assert read_ids(connection, 1) == [2]
    connection.close()


def test_a_client_that_does_not_read_is_dropped_and_nobody_waits(dashboard, until, monkeypatch):
    """Its queue is bounded; another page gets every event."""
    monkeypatch.setattr(feeding, "WAITING_EVENTS", 50)
    board = dashboard()
    sleeper = board.open("/api/events")
    until(lambda: board.get("/healthz")["streams"] == 1)
    big = "x" * 100_000
    fed = 0
    while not board.get("/healthz")["dropped_streams"]:
        board.feed(*(Sample(run="r", prompt=big, answer=big, example=str(n)) for n in range(60)))
        fed += 60
        assert fed < 100_000
    until(lambda: board.get("/healthz")["streams"] == 0)
    reader = board.open(f"/api/events?after={fed - 3}")
    assert read_ids(reader, 2) == [fed - 2, fed - 1]
    reader.close()
    with contextlib.suppress(ConnectionError, http.client.IncompleteRead):
        answer = sleeper.getresponse()
        while answer.readline():
            pass
    sleeper.close()


def test_streams_end_when_the_plugin_stops(dashboard):
    """Stopping waits for nobody."""
    board = dashboard()
    connection = board.open("/api/events")
    answer = connection.getresponse()
    board.close()
    while answer.readline():
        pass
    connection.close()


def test_no_event_can_break_the_stream_or_the_page_apart(dashboard):
    """Line ends and markup inside a text stay inside the JSON of one data line; a huge event is clipped to its head."""
    board = dashboard()
    board.feed(Sample(run="r", prompt="a\n\nid: 99\ndata: {}\n\n</script>"), Sample(run="r", prompt="p", example="e" * 4_000_000))
    connection = board.open("/api/events?after=-1")
    answer = connection.getresponse()
    lines = []
    while len(lines) < 2:
        line = answer.readline()
        if line.startswith(b"data: {") and b'"kind"' in line:
            lines.append(json.loads(line[6:]))
    assert lines[0]["prompt"] == "a\n\nid: 99\ndata: {}\n\n</script>"
    assert all(len(json.dumps(line)) < 300_000 for line in lines)
    connection.close()
