"""How a visitor has arranged the page is kept by the server, for him alone."""

import json

import pytest

from trainbus.plugins.web.layouts import MOST_PANELS, Layouts
from trainbus.plugins.web.steering import LONGEST_BODY, RefusedRequest

MINE = {"order": ["alerts", "loss"], "folded": ["lr"], "widths": {"loss": 3}, "pinned": ["loss + grad_norm"]}
NONE = {"order": [], "folded": [], "widths": {}, "pinned": []}


def as_holder(token):
    return {"Cookie": f"trainbus_token={token}"}


def kept(board, **headers):
    status, _, body = board.ask("/api/layout", **headers)
    assert status == 200
    return json.loads(body)


def test_each_holder_of_a_token_has_a_layout_of_his_own_also_a_viewer(dashboard):
    """It outlives a restart of the server; the name of the file tells nothing of the token."""
    board = dashboard(token="look", operator_token="steer")
    assert kept(board, **as_holder("look")) is None
    assert board.post("/api/layout", MINE, **as_holder("look")) == (202, MINE)
    assert board.post("/api/layout", NONE, **as_holder("steer")) == (202, NONE)
    files = [file.name for file in board.context.directory.rglob("layouts/*")]
    assert len(files) == 2
    assert not any("look" in name or "steer" in name for name in files)
    board.close()
    again = dashboard(context=board.context, token="look", operator_token="steer")
    assert kept(again, **as_holder("look")) == MINE
    assert kept(again, **as_holder("steer")) == NONE


def test_without_a_token_everybody_shares_one_layout(dashboard):
    """Whoever reaches the port is on this machine; a made-up token makes no further file."""
    board = dashboard()
    assert board.post("/api/layout", MINE, **as_holder("made-up"))[0] == 202
    assert kept(board) == MINE
    assert [file.name for file in board.context.directory.rglob("layouts/*")] == ["everybody.json"]


def test_another_site_can_neither_read_nor_write_a_layout(dashboard):
    """Only the page itself and scripts: no form, no foreign origin; nobody without a token where one is needed."""
    board = dashboard(token="look")
    mine = as_holder("look")
    assert board.post("/api/layout", MINE)[0] == 401
    assert board.post("/api/layout", MINE, **mine, Content_Type="text/plain")[0] == 415
    assert board.post("/api/layout", MINE, **mine, Origin="http://evil.example")[0] == 403
    assert board.post("/api/layout", MINE, **mine, Sec_Fetch_Site="same-site")[0] == 403
    assert kept(board, **mine) is None
    assert board.post("/api/layout", MINE, **mine, Sec_Fetch_Site="same-origin")[0] == 202


@pytest.mark.parametrize(
    "wrong",
    [
        b"[]",
        b"\xff",
        {"order": "loss"},
        {"widths": {"loss": 4}},
        {"widths": {"loss": 0}},
        {"folded": [""]},
        {"order": ["x"] * (MOST_PANELS + 1)},
        {"pinned": ["x"] * 13},
        {"more": 1},
    ],
)
def test_what_is_no_layout_is_refused_with_the_reason(dashboard, wrong):
    """The layout that was kept before stays."""
    board = dashboard()
    board.post("/api/layout", MINE)
    status, answer = board.post("/api/layout", wrong)
    assert status == 400
    assert "This is no layout" in answer["problem"]
    assert kept(board) == MINE


def test_a_layout_is_small_and_a_full_disk_is_told(dashboard, tmp_path):
    """More than a request may hold is not even read; where nothing can be written, the answer says so."""
    board = dashboard()
    assert board.post("/api/layout", b" " * (LONGEST_BODY + 1))[0] == 413
    (tmp_path / "layouts").write_text("a file where the folder should be")
    with pytest.raises(RefusedRequest, match="can't be kept"):
        Layouts(tmp_path).keep("", json.dumps(MINE).encode())
    assert Layouts(tmp_path).of("") is None


def test_a_damaged_file_counts_as_none(tmp_path):
    """A page then stands as it does by itself."""
    layouts = Layouts(tmp_path)
    layouts.keep("", json.dumps(MINE).encode())
    (tmp_path / "layouts" / "everybody.json").write_bytes(b'{"order": [1')
    assert layouts.of("") is None
