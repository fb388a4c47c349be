"""Looking after plugins through the API: what is asked of the supervisor, and who may ask."""

import json

import pytest

from tests.plugins.web.story import supervisor
from trainbus.errors import PluginError, UnreachableError
from trainbus.testing.context import MemoryContext, Supervised


@pytest.fixture
def board(dashboard):
    context = MemoryContext(name="web")
    context.supervisor = supervisor()
    return dashboard(context=context)


def test_plugins_are_added_removed_and_restarted(board):
    """The answer tells how the plugin stands then; what is asked lasts unless it shall not."""
    assert board.post("/api/plugins/notify", {"verb": "add"}) == (202, {"plugin": "notify", "verb": "add", "state": "running"})
    assert board.post("/api/plugins/inference", {"verb": "remove", "save": False})[1]["state"] == "stopped"
    assert board.post("/api/plugins/inference", {"verb": "restart"})[1]["state"] == "running"
    assert board.context.supervised == [
        Supervised("add", "notify", {"save": True}),
        Supervised("remove", "inference", {"save": False}),
        Supervised("restart", "inference", {}),
    ]


def test_logs_and_installed_plugins_are_told(board):
    """As many lines as asked for, within bounds."""
    assert [one["name"] for one in board.get("/api/plugins")["installed"]][:2] == ["anomaly", "inference"]
    assert len(board.get("/api/plugins/inference/log?lines=99999")["lines"]) == 30
    assert board.context.supervised[-1] == Supervised("log", "inference", {"lines": 2000})


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"verb": "down"}, 400),
        ({"verb": "reload"}, 400),
        ({"verb": "add", "save": "yes"}, 400),
        ({"verb": "add", "as": "x"}, 400),
        (b"{", 400),
    ],
)
def test_nothing_else_is_asked_of_the_supervisor(body, status, board):
    """Not its end, for example."""
    assert board.post("/api/plugins/web", body)[0] == status
    assert board.context.supervised == []


def test_what_the_supervisor_refuses_is_said(board):
    """With its hint; also when there is none to ask."""
    board.context.supervisor["add"] = PluginError("There is no plugin named 'nope'.", hint="Installed: anomaly.")
    assert board.post("/api/plugins/nope", {"verb": "add"}) == (409, {"problem": "There is no plugin named 'nope'. Installed: anomaly."})
    board.context.supervisor["installed"] = UnreachableError("No broker is known.")
    assert board.ask("/api/plugins")[0] == 503


def test_a_viewer_may_neither_change_plugins_nor_read_their_logs(dashboard):
    """Nobody knows what stands in a log."""
    context = MemoryContext(name="web")
    context.supervisor = supervisor()
    board = dashboard(context=context, token="look", operator_token="steer")
    for path in ("/api/plugins", "/api/plugins/web/log"):
        assert board.ask(path, Authorization="Bearer look")[0] == 403
        assert board.ask(path, Authorization="Bearer steer")[0] == 200
    before = list(context.supervised)
    assert board.post("/api/plugins/web", {"verb": "restart"}, Authorization="Bearer look")[0] == 403
    assert board.post("/api/plugins/web", {"verb": "restart"}, Authorization="Bearer steer", Origin="http://evil.example")[0] == 403
    assert board.post("/api/plugins/web", {"verb": "restart"}, Authorization="Bearer steer", Content_Type="text/plain")[0] == 415
    assert context.supervised == before


def test_every_address_for_operators_only_refuses_a_viewer(dashboard):
    """Each route that says so in the table."""
    from trainbus.plugins.web.routes import ROUTES

    board = dashboard(token="look", operator_token="steer")
    asked = [route for route in ROUTES if route.operator]
    assert {route.handler for route in asked} == {"command", "plugins", "plugin_log", "plugin", "drop"}
    for route in asked:
        path = route.path.replace("{run}", "r").replace("{plugin}", "p")
        status, _, body = board.ask(path, method=route.method, Authorization="Bearer look", Content_Type=route.takes, Content_Length="0")
        assert (status, "Only an operator" in json.loads(body)["problem"]) == (403, True)
