"""What scripts, Prometheus and operators get from the server."""

import csv
import io
import json
import logging
import math

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.hosting.conftest import site as site
from tests.plugins.web.story import SECOND, crowd, keeping, training
from trainbus.bus.events import Alert, Gpu, Job, Memory, Plugin, RunStarted, Sample, Step, System
from trainbus.errors import ConfigError, RefusedError
from trainbus.hookspecs import Panel
from trainbus.plugins.web.discovery import installed_panels
from trainbus.plugins.web.routes import ROUTES

RUN = "qwen3-gsm8k"
COMMANDS = f"/api/runs/{RUN}/commands"


@pytest.fixture
def board(dashboard):
    """A dashboard of some runs."""
    made = dashboard()
    made.feed(*crowd(now=1_700_000_000 * SECOND), *training())
    return made


def test_every_address_of_the_description_answers_as_described(board):
    """OpenAPI: each GET gives 200 and its media type, and JSON of the described shape."""
    board.feed(*keeping(now=1_700_000_000 * SECOND))
    described = board.get("/api/openapi.json")
    assert set(described["paths"]) == {route.path for route in ROUTES}
    values = {"run": RUN, "list": "alerts", "plugin": "memory", "panel": "memory"}
    for path, operations in described["paths"].items():
        if "get" not in operations or path == "/api/events":
            continue
        content = operations["get"]["responses"]["200"]["content"]
        status, headers, body = board.ask(path.format(**values) + ("?metric=loss" if path.endswith("series") else ""))
        assert (status, headers["content-type"].partition(";")[0]) == (200, *content), path
        if (schema := content.get("application/json", {}).get("schema")) is not None:
            jsonschema.validate(json.loads(body), schema | {"components": described["components"]})


def test_prometheus_can_read_the_metrics(board):
    """The exposition parses, and says what the events said; NaN stays NaN."""
    board.feed(Step(run=RUN, step=401, total_steps=600, metrics={"loss": math.nan}, time=1_700_000_001 * SECOND))
    status, _, body = board.ask("/metrics")
    samples = {
        (sample.name, *(text for _, text in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }
    assert status == 200
    assert samples["trainbus_run_step", RUN] == 401
    assert samples["trainbus_run_running", RUN, "running"] == 1
    assert samples["trainbus_run_running", "lr-1e-4", "completed"] == 0
    assert math.isnan(samples["trainbus_run_metric", "loss", RUN])
    assert samples["trainbus_plugin_restarts_total", "inference"] == 5
    assert samples["trainbus_gpu_utilization_percent", "0", "gpu-box"] == 97
    assert samples["trainbus_run_open_alerts", RUN, "warning"] == 1


def test_memory_and_gpus_are_told_in_fixed_fields(dashboard):
    """Nothing known is null, not an error; the risk is the reporter's own, or follows from the share."""
    board = dashboard()
    assert board.get("/api/memory_stats")["percent"] is None
    assert board.get("/api/gpu_stats") == {"gpus": None}
    gib = 1024**3
    for percent, risk in ((60, "low"), (71, "medium"), (86, "high")):
        board.feed(System(host="h", memory=Memory(total=100 * gib, used=percent * gib), time=1))
        stats = board.get("/api/memory_stats")
        assert (stats["percent"], stats["oom_risk"], stats["total_gb"], stats["swap_percent"]) == (percent, risk, 100, None)
    board.feed(System(host="g", gpus=[Gpu(index=0, memory_total=80 * gib, memory_used=20 * gib, temperature=50.0)]))
    (gpu,) = board.get("/api/gpu_stats")["gpus"]
    assert (gpu["memory_utilization"], gpu["temperature"], gpu["power"]) == (25, 50, None)


def test_running_accuracy_is_that_of_the_last_20_and_50_and_of_all(dashboard):
    """One hundred fixed results give exact figures, with the trend against the 20 before."""
    board = dashboard()
    verdicts = [number % 4 != 0 for number in range(80)] + [True] * 15 + [False] * 5
    board.feed(RunStarted(run="r"), *(Sample(run="r", step=n, correct=correct, prompt="p") for n, correct in enumerate(verdicts)))
    figures = board.get("/api/accuracy")
    expected = (
        sum(verdicts[-20:]) / 20,
        sum(verdicts[-50:]) / 50,
        sum(verdicts) / 100,
        (sum(verdicts[-20:]) - sum(verdicts[-40:-20])) / 20,
    )
    assert (figures["last20"], figures["last50"], figures["overall"], figures["trend"]) == pytest.approx(expected)


def test_samples_that_deserve_a_look_are_flagged_with_their_reasons(dashboard):
    """The thousand-and-first drops the oldest; a reason selects; one example is followed."""
    board = dashboard()
    board.feed(Sample(run="r", prompt="old", correct=False))
    for step, correct, loss in ((1, True, 0.1), (2, False, 0.1), (3, None, 5.0)):
        board.feed(Sample(run="r", step=step, prompt="p", example="e", correct=correct, loss=loss, answer=f"a{step}"))
    assert [sample["reasons"] for sample in board.get("/api/flagged")["samples"]] == [
        ["unsure"], ["wrong", "confidently_wrong", "regressed"], ["wrong"],
    ]  # fmt: skip
    assert board.get("/api/flagged?reason=regressed")["found"] == 1
    evolution = board.get("/api/evolution?example=e")
    assert (evolution["examples"], [answer["answer"] for answer in evolution["answers"]]) == ({"e": 3}, ["a1", "a2", "a3"])
    board.feed(*(Sample(run="r", step=step, prompt="new", correct=False) for step in range(1000)))
    flagged = board.get("/api/flagged?limit=1000")
    assert (flagged["found"], {sample["prompt"] for sample in flagged["samples"]}) == (1000, {"new"})


def test_lists_are_searched_cut_and_versioned(board):
    """A page asks again only for what has changed."""
    answer = board.get(f"/api/runs/{RUN}/lists/samples?search=MARBLES&limit=2")
    assert (len(answer["entries"]), answer["found"], answer["all"]) == (2, 24, 24)
    before = board.get(f"/api/state?run={RUN}&lists=no")["run"]
    assert "samples" not in before
    board.feed(Alert(run=RUN, id="new"))
    after = board.get(f"/api/state?run={RUN}&lists=no")["run"]["versions"]
    assert {name for name in after if after[name] != before["versions"][name]} == {"alerts"}
    assert board.ask(f"/api/runs/{RUN}/lists/secrets")[0] == 404


def test_a_file_of_the_queue_knows_the_step_at_which_it_began(dashboard):
    """The loss chart marks it there."""
    board = dashboard()
    board.feed(Step(run="r", step=7), Job(run="r", id="j", file="a.jsonl", state="processing"), Step(run="r", step=9))
    board.feed(Job(run="r", id="j", file="a.jsonl", state="completed"))
    (job,) = board.get("/api/inbox_files")["files"]
    assert (job["state"], job["step"]) == ("completed", 7)


def test_an_export_holds_loss_memory_and_accuracy(board):
    """As CSV and as JSON; a name that a spreadsheet would run is made harmless."""
    board.feed(Step(run=RUN, step=401, metrics={"=cmd()": 1.0}))
    rows = list(csv.DictReader(io.StringIO(board.ask(f"/api/runs/{RUN}/export")[2].decode())))
    assert {row["series"] for row in rows} == {"loss", "memory_percent", "accuracy"}
    series = json.loads(board.ask(f"/api/runs/{RUN}/export?format=json")[2])["series"]
    assert {name: len(one["x"]) for name, one in series.items()} == {"loss": 399, "memory_percent": 21, "accuracy": 8}
    status, headers, body = board.ask(f"/api/runs/{RUN}/export?metric=%3Dcmd()")
    assert (status, headers["content-disposition"]) == (200, 'attachment; filename="qwen3-gsm8k.csv"')
    assert b"'=cmd()" in body


def test_the_used_share_of_memory_leaves_out_what_can_be_had(dashboard):
    """Caches count as used for the kernel and can be had all the same: series and export say what is not available, else what is used."""
    board = dashboard()
    board.feed(
        RunStarted(run="r", host="box", time=SECOND),
        System(host="box", memory=Memory(total=100, used=90, available=40), time=2 * SECOND),
        System(host="box", memory=Memory(total=100, used=70), time=3 * SECOND),
    )
    assert board.plugin.intake.store.memory["box"].values.tolist() == [60.0, 70.0]
    series = json.loads(board.ask("/api/runs/r/export?format=json")[2])["series"]
    assert series["memory_percent"] == {"axis": "time", "x": [2, 3], "values": [60.0, 70.0]}


def test_time_left_comes_with_an_interval(dashboard):
    """From the fastest and the slowest part of the last steps."""
    board = dashboard()
    times = [step if step < 20 else 20 + (step - 20) * 2 for step in range(41)]
    board.feed(
        RunStarted(run="r", time=SECOND), *(Step(run="r", step=s, total_steps=140, time=(1 + t) * SECOND) for s, t in enumerate(times))
    )
    run = board.get("/api/runs/r")
    assert run["eta_low"] == pytest.approx(100)
    assert run["eta_high"] == pytest.approx(200)
    assert run["eta_low"] < run["eta"] < run["eta_high"]


def test_a_command_is_sent_and_its_id_told(board):
    """With the arguments, and the reason that is kept in the journal."""
    status, answer = board.post(COMMANDS, {"verb": "set", "arguments": {"learning_rate": 1e-5}, "reason": "why not"})
    assert (status, answer["command"]) == (202, "command-1")
    (sent,) = board.context.commands
    assert (sent.run, sent.verb, sent.arguments, sent.reason) == (RUN, "set", {"learning_rate": 1e-5}, "why not")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ({"verb": "explode"}, {}, 400),
        ({"verb": "set"}, {}, 400),
        ({"verb": "stop", "arguments": {"x": 1}}, {}, 400),
        ({"verb": "set", "arguments": {"reason": "x"}}, {}, 400),
        ({"verb": "stop", "now": True}, {}, 400),
        ({"verb": "pin", "arguments": {"checkpoint": "c"}}, {}, 400),
        ({"verb": "stop", "plugin": "retention"}, {}, 400),
        ({"verb": "pin", "plugin": "web", "arguments": {"checkpoint": "c"}}, {}, 400),
        ({"verb": "pin", "plugin": "retention"}, {}, 400),
        ({"verb": "pin", "plugin": "retention", "arguments": {"checkpoint": 7}}, {}, 400),
        ({"verb": "pin", "plugin": "retention", "arguments": {"checkpoint": "c", "pin": False}}, {}, 400),
        ({"verb": "restore", "plugin": "retention", "arguments": {"checkpoint": "c", "pin": "no"}}, {}, 400),
        ({"verb": "restore", "plugin": "retention", "arguments": {"checkpoint": "c", "run": "other"}}, {}, 400),
        (b"{", {}, 400),
        (b" " * 20_000, {}, 413),
        ({"verb": "stop"}, {"Content_Type": "text/plain"}, 415),
        ({"verb": "stop"}, {"Origin": "http://evil.example"}, 403),
        ({"verb": "stop"}, {"Sec_Fetch_Site": "same-site"}, 403),
        ({"verb": "stop"}, {"Sec_Fetch_Site": "cross-site"}, 403),
    ],
)
def test_what_is_no_command_or_comes_from_elsewhere_is_refused(body, headers, status, board):
    """Nothing of it reaches the bus."""
    answered, problem = board.post(COMMANDS, body, **headers)
    assert (answered, bool(problem["problem"])) == (status, True)
    assert board.context.commands == []


def test_the_trainers_queue_is_edited_from_the_page(board):
    """With the arguments that the verb wants; the trainer answers for them."""
    asked = {"verb": "queue_priority", "arguments": {"job": "x.jsonl", "priority": "high"}}
    assert board.post(COMMANDS, asked)[0] == 202
    assert board.post(COMMANDS, {"verb": "queue_hold", "reason": "maintenance"})[0] == 202
    assert [(sent.verb, sent.arguments) for sent in board.context.commands] == [
        ("queue_priority", {"job": "x.jsonl", "priority": "high"}), ("queue_hold", {}),
    ]  # fmt: skip


def test_only_an_operator_steers(dashboard):
    """By token; without any token on loopback everybody, unless steering is off."""
    board = dashboard(token="look", operator_token="steer")
    board.feed(*training(steps=2))
    roles = {token: board.ask("/api/state", Authorization=f"Bearer {token}") for token in ("look", "steer", "guess")}
    assert [status for status, _, _ in roles.values()] == [200, 200, 401]
    assert [json.loads(roles[token][2])["role"] for token in ("look", "steer")] == ["viewer", "operator"]
    pin = {"verb": "pin", "plugin": "retention", "arguments": {"checkpoint": "c"}}
    for asked in ({"verb": "stop"}, pin):
        assert [board.post(COMMANDS, asked, Authorization=f"Bearer {token}")[0] for token in roles] == [403, 202, 401]
    assert [(sent.verb, sent.plugin) for sent in board.context.commands] == [("stop", ""), ("pin", "retention")]
    for config in ({"steering": False}, {"token": "look"}):
        other = dashboard(**config)
        other.feed(*training(steps=2))
        assert other.post(COMMANDS, {"verb": "stop"}, Authorization="Bearer look")[0] == 403


def test_readers_without_token_are_viewers_beside_an_operators_token(dashboard):
    """On loopback; the operator's link makes an operator of them."""
    board = dashboard(operator_token="steer")
    assert board.get("/api/state")["role"] == "viewer"
    status, headers, _ = board.ask("//?token=steer")
    assert (status, headers["location"]) == (303, "/")
    assert json.loads(board.ask("/api/state", Cookie=headers["set-cookie"].split(";")[0])[2])["role"] == "operator"


def test_one_token_for_both_roles_is_refused(dashboard):
    """Every reader could steer."""
    with pytest.raises(ConfigError, match="are the same"):
        dashboard(token="x", operator_token="x")


def test_a_command_that_the_bus_refuses_says_why(board, monkeypatch):
    """As when the plugin's key is an observer's."""

    async def refuse(*args, **options):
        raise RefusedError("The role observer may not send commands.", code="role")

    monkeypatch.setattr(board.context, "command", refuse)
    assert board.post(COMMANDS, {"verb": "stop"}) == (409, {"problem": "The role observer may not send commands."})


def test_an_unknown_run_gets_no_command(board):
    """404 instead of a command into the void."""
    assert board.post("/api/runs/none/commands", {"verb": "stop"})[0] == 404


def test_a_declared_panel_keeps_the_rows_of_its_events(dashboard):
    """Only those that have any of its fields; a panel whose plugin has never run is not shown."""
    board = dashboard()
    for name in ("mine", "other"):
        board.declare(name, Panel(id="p", title="P", kind="table", events="system", fields=("memory.used", "disks.0.path")))
    board.feed(Plugin(name="mine"), System(host="h", memory=Memory(total=2, used=1)), System(host="h"))
    assert [panel["key"] for panel in board.get("/api/state")["panels"]] == ["mine/p"]
    assert [row["values"] for row in board.get("/api/panels/mine/p")["rows"]] == [[1, None]]
    assert board.ask("/api/panels/mine/q")[0] == 404


def test_installed_plugins_are_asked_for_their_panels_and_a_broken_one_costs_only_itself(site, caplog):
    """The hook web_panels of whatever is installed beside the dashboard."""
    site.install("mine", """
        from trainbus import Panel
        class P:
            @hookimpl
            def web_panels(self):
                return [Panel(id="p", title="P", kind="gauge", events="step", fields=("step",))]
    """)  # fmt: skip
    site.install("broken", "raise RuntimeError('no such device')")
    found = installed_panels(logging.getLogger("test"), without="memory")
    assert [panel.id for panel in found["mine"]] == ["p"]
    assert "broken" not in found
    assert "memory" not in found
    assert "no such device" in caplog.text


def test_files_with_a_hash_in_their_name_are_kept_by_browsers_and_the_page_is_not(page, board):
    """So a new version is seen at once and costs one small request else."""
    kept = {path: board.ask(path)[1]["cache-control"] for path in board.plugin._server.assets}
    assert kept["/"] == kept["/static/first.js"] == "no-cache"
    assert [value for path, value in kept.items() if path.startswith("/static/app-")] == ["public, max-age=31536000, immutable"]


def test_readiness_differs_from_health(dashboard):
    """Both say yes once the history is read."""
    assert dashboard().get("/readyz")["ready"]
