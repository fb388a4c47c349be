"""Files that are dropped onto the page."""

import http.client
import json
from urllib.parse import quote, urlsplit

import pytest

from trainbus.bus.home import write_inbox
from trainbus.plugins.web import dropping
from trainbus.plugins.web.dropping import ENDINGS, safe_name
from trainbus.plugins.web.steering import RefusedRequest
from trainbus.trainer_node.inbox.intake import ACCEPTED, Intake
from trainbus.trainer_node.inbox.queue import Queue

LINE = b'{"prompt": "a", "response": "b"}\n'


@pytest.fixture
def inbox(tmp_path):
    """A folder that the trainer watches."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def drop(board, name, content=LINE, *, priority="normal", **headers):
    """Status and answer of an upload."""
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(board.url).port, timeout=60)
    sent = {"Content-Type": "application/octet-stream"} | {name.replace("_", "-"): text for name, text in headers.items()}
    connection.request("POST", f"/api/inbox?name={quote(name)}&priority={priority}", body=content, headers=sent)
    answer = connection.getresponse()
    body = json.loads(answer.read())
    connection.close()
    return answer.status, body


def files(inbox):
    return sorted(str(path.relative_to(inbox)) for path in inbox.rglob("*") if path.is_file())


def test_a_dropped_file_lies_whole_in_the_inbox_and_the_trainer_takes_it(dashboard, inbox, tmp_path):
    """By the folder that the trainer of this state directory has noted; a priority is a folder; no file replaces another."""
    write_inbox(inbox)
    board = dashboard()
    assert board.get("/api/state")["uploads"] == {"largest": 1024**3, "endings": list(ENDINGS)}
    assert drop(board, "a.jsonl", LINE * 100_000) == (202, {"name": "a.jsonl", "bytes": len(LINE) * 100_000, "priority": "normal"})
    assert drop(board, "a.jsonl")[1]["name"] == "a-2.jsonl"
    assert drop(board, "b.parquet", priority="high")[0] == 202
    assert files(inbox) == ["a-2.jsonl", "a.jsonl", "high/b.parquet"]
    with Queue(tmp_path / "queue.db") as queue:
        intake = Intake(inbox, queue, settle=0.0)
        assert [(taken.job.name, taken.job.priority) for taken in intake.look(0.0)] == [
            ("a-2.jsonl", "normal"), ("a.jsonl", "normal"), ("b.parquet", "high"),
        ]  # fmt: skip


def test_the_page_offers_what_the_trainer_takes():
    """One list in two places, because plugins know nothing of the trainer."""
    assert set(ENDINGS) == set(ACCEPTED)


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/cron.d/x.jsonl", "x.jsonl"),
        ("..\\..\\x.JSONL", "x.jsonl"),
        ("/x.jsonl.gz", "x.jsonl.gz"),
        (".hidden.jsonl", "hidden.jsonl"),
        ("a b;rm -rf $HOME`\x1b[31m\n.json", "a_b_rm_-rf__HOME___31m_.json"),
        ("Ärger 数据.parquet", "Ärger_数据.parquet"),
        ("x" * 4000 + ".jsonl", "x" * 150 + ".jsonl"),
    ],
)
def test_names_lead_nowhere_and_mislead_nobody(name, safe):
    """Only the last part of a path, and of it what is a letter anywhere."""
    assert safe_name(name).lower() == safe.lower()


@pytest.mark.parametrize("name", ["", ".jsonl", "...jsonl", "x.exe", "x.jsonl.part", "x.jsonl/", "_.json"])
def test_names_that_the_trainer_does_not_take_are_refused(name):
    """Before anything is written."""
    with pytest.raises(RefusedRequest, match="ends in"):
        safe_name(name)


def test_what_may_not_be_dropped_is_refused_and_leaves_nothing(dashboard, inbox, monkeypatch):
    """Too large (said or not), empty, a foreign ending, another site, a form; the disk is nearly full."""
    board = dashboard(inbox=str(inbox), upload_bytes=1000)
    assert drop(board, "a.jsonl", b"x" * 1001)[0] == 413
    assert drop(board, "a.jsonl", iter([b"x" * 600, b"y" * 600]))[0] == 413
    assert drop(board, "a.jsonl", b"")[0] == 400
    assert drop(board, "a.exe")[0] == 415
    assert drop(board, "a.jsonl", priority="../high")[0] == 400
    assert drop(board, "a.jsonl", Origin="http://evil.example")[0] == 403
    assert drop(board, "a.jsonl", Content_Type="text/plain")[0] == 415
    assert drop(board, "a.jsonl", Content_Type="application/json")[0] == 415
    monkeypatch.setattr(dropping, "FREE_BYTES", 2**62)
    assert drop(board, "a.jsonl")[0] == 507
    assert files(inbox) == []


def test_a_viewer_may_not_drop_and_is_offered_nothing(dashboard, inbox):
    """With a token for reading."""
    board = dashboard(inbox=str(inbox), token="look", operator_token="steer")
    status, answer = drop(board, "a.jsonl", Authorization="Bearer look")
    assert (status, "operator" in answer["problem"]) == (403, True)
    assert json.loads(board.ask("/api/state", Authorization="Bearer look")[2])["uploads"] is None
    assert json.loads(board.ask("/api/state", Authorization="Bearer steer")[2])["uploads"]["largest"] == 1024**3
    assert drop(board, "a.jsonl", Authorization="Bearer steer")[0] == 202
    assert files(inbox) == ["a.jsonl"]


def test_without_a_known_inbox_nothing_is_taken(dashboard, tmp_path):
    """No trainer ever ran here, its folder is gone, or the setting says that none is wanted."""
    board = dashboard()
    assert board.get("/api/state")["uploads"] is None
    status, answer = drop(board, "a.jsonl")
    assert (status, "No inbox is known" in answer["problem"]) == (409, True)
    write_inbox(tmp_path / "gone")
    assert drop(board, "a.jsonl")[0] == 409
    assert drop(dashboard(inbox=str(tmp_path), upload_bytes=0), "a.jsonl")[0] == 409


def test_an_upload_that_breaks_off_leaves_nothing(dashboard, inbox, until):
    """The trainer never sees half a file."""
    board = dashboard(inbox=str(inbox))
    connection = board.open("/api/inbox?name=a.jsonl", method="POST", Content_Type="application/octet-stream", Content_Length="1000000")
    connection.send(LINE)
    until(lambda: len(files(inbox)) == 1, 60)
    assert files(inbox)[0].startswith(".uploads/")
    connection.close()
    until(lambda: files(inbox) == [], 60)


def test_only_so_many_are_taken_at_once(dashboard, inbox, until, monkeypatch):
    """More are told to come back."""
    monkeypatch.setattr(dropping, "AT_ONCE", 1)
    board = dashboard(inbox=str(inbox))
    slow = board.open("/api/inbox?name=a.jsonl", method="POST", Content_Type="application/octet-stream", Content_Length=str(2 * len(LINE)))
    slow.send(LINE)
    until(lambda: len(files(inbox)) == 1, 60)
    assert drop(board, "b.jsonl")[0] == 503
    slow.send(LINE)
    assert slow.getresponse().status == 202
    slow.close()
    assert drop(board, "b.jsonl")[0] == 202
