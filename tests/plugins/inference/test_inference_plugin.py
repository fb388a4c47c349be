import pytest

from tests.plugins.inference.tools import checkpoint, of
from trainbus.bus.events import Alert, Eval, Sample
from trainbus.errors import ConfigError, DataError
from trainbus.testing.context import MemoryContext


def test_a_complete_checkpoint_is_asked_all_questions_and_its_results_carry_its_id(examiner, server, until):
    """Five samples and one eval, all bound to the checkpoint, greedy, with the model named after the checkpoint's path."""
    server.answer = lambda prompt: "10" if prompt == "5 + 5?" else "nonsense"
    harness = examiner()
    harness.feed(checkpoint(7))
    until(lambda: of(harness, Eval))
    samples, (result,) = of(harness, Sample), of(harness, Eval)
    assert [(sample.example, sample.correct) for sample in samples] == [(f"q{n}", n == 5) for n in range(1, 6)]
    assert {event.checkpoint for event in [*samples, result]} == {"r@7:abc"}
    assert {(event.run, event.step, event.dataset) for event in [*samples, result]} == {("r", 7, "sums")}
    shares = dict.fromkeys(("exact_match", "normalised_match", "number_match", "accuracy"), 0.2)
    assert result.metrics == shares | {"accuracy_low": pytest.approx(0.0362, abs=1e-4), "accuracy_high": pytest.approx(0.6245, abs=1e-4)}
    assert result.evidence == {"judged": 5, "correct": 1}
    assert result.examples == 5
    assert result.duration > 0
    assert {(body["model"], body["temperature"]) for body in server.requests} == {("/models/checkpoint-7", 0.0)}


def test_writing_checkpoints_are_left_alone(examiner, until):
    """Only what is complete under its final name is examined."""
    harness = examiner()
    harness.feed(checkpoint(1, state="writing"), checkpoint(2))
    until(lambda: of(harness, Eval))
    assert [result.step for result in of(harness, Eval)] == [2]


def test_the_lease_is_held_while_asking_and_given_back_after(examiner, server, until):
    """Retention must not delete what is being examined."""
    server.held.clear()
    harness = examiner()
    harness.feed(checkpoint(1))
    until(lambda: server.requests)
    assert harness.context.leases["r@1:abc"] == ["shared"]
    server.held.set()
    until(lambda: of(harness, Eval) and not harness.context.leases["r@1:abc"])


def test_the_lease_is_given_back_when_the_plugin_is_stopped_in_the_middle(examiner, server, until):
    """Stopping ends the work at hand; the checkpoint still waits for the next start."""
    server.held.clear()
    harness = examiner()
    harness.feed(checkpoint(1))
    until(lambda: server.requests)
    harness.stop()
    assert harness.context.leases["r@1:abc"] == []
    assert [entry["id"] for entry in harness.context.state["pending"]] == ["r@1:abc"]


def test_a_checkpoint_that_is_being_deleted_is_passed_over(examiner, server, until):
    """A refused lease is no fault: the next checkpoint is examined."""
    context = MemoryContext(name="inference")
    context.leases["r@1:abc"] = ["exclusive"]
    harness = examiner(context=context)
    harness.feed(checkpoint(1))
    until(lambda: not context.state["pending"])
    harness.feed(checkpoint(2))
    until(lambda: of(harness, Eval))
    assert [result.step for result in of(harness, Eval)] == [2]
    assert of(harness, Alert) == []


def test_the_newest_checkpoint_is_preferred_when_behind(examiner, server, until):
    """While the first is asked, three more come: two are passed over."""
    server.held.clear()
    harness = examiner()
    harness.feed(checkpoint(1))
    until(lambda: server.requests)
    harness.feed(checkpoint(2), checkpoint(3), checkpoint(4))
    server.held.set()
    until(lambda: len(of(harness, Eval)) == 2)
    assert [result.step for result in of(harness, Eval)] == [1, 4]


def test_every_checkpoint_is_examined_in_order_when_that_is_the_policy(examiner, server, until):
    """Nothing is passed over."""
    server.held.clear()
    harness = examiner(policy="every")
    harness.feed(*(checkpoint(step) for step in range(1, 5)))
    server.held.set()
    until(lambda: len(of(harness, Eval)) == 4)
    assert [result.step for result in of(harness, Eval)] == [1, 2, 3, 4]


def test_a_repeated_event_is_not_examined_again(examiner, until):
    """Delivery is at least once."""
    harness = examiner()
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    harness.feed(checkpoint(1), checkpoint(2))
    until(lambda: len(of(harness, Eval)) == 2)
    assert [result.step for result in of(harness, Eval)] == [1, 2]


def test_a_checkpoint_that_waited_at_a_crash_is_examined_after_the_restart(examiner, server, until):
    """Its event is behind the cursor and never comes again: the queue in the durable state remembers it."""
    server.held.clear()
    first = examiner()
    first.feed(checkpoint(1))
    until(lambda: server.requests)
    first.kill()
    server.held.set()
    second = examiner(context=first.context)
    until(lambda: of(second, Eval))
    assert [result.step for result in of(second, Eval)] == [1]


def test_a_result_that_was_published_before_the_state_was_kept_is_not_published_again(examiner, until):
    """A crash between the eval and the commit of the state: the journal has the result, so nothing is asked."""
    context = MemoryContext(name="inference")
    announced = checkpoint(1)
    announced.offset = 0
    context.history = [announced, Eval(run="r", step=1, dataset="sums", checkpoint="r@1:abc", metrics={"accuracy": 1.0}, offset=1)]
    context.state["pending"] = [{"id": "r@1:abc", "run": "r", "step": 1, "path": "/m", "offset": 0}]
    harness = examiner(context=context)
    until(lambda: not context.state["pending"])
    harness.feed(checkpoint(2))
    until(lambda: of(harness, Eval))
    assert [result.step for result in of(harness, Eval)] == [2]


def test_a_server_that_is_down_raises_one_alert_and_clears_it_when_it_is_back(examiner, server, until, caplog):
    """That is no fault of the checkpoint: more failures than it has tries, and the result comes once the server answers."""
    server.hang_up()
    harness = examiner(attempts=2)
    harness.feed(checkpoint(1))
    until(lambda: "failure 4" in caplog.text)
    server.listen()
    until(lambda: of(harness, Eval))
    alerts = of(harness, Alert)
    assert [(alert.rule, alert.state) for alert in alerts] == [("inference_server_lost", "raised"), ("inference_server_lost", "cleared")]
    assert alerts[0].id == alerts[1].id
    assert alerts[0].run == "r"


def test_a_checkpoint_is_given_up_after_its_tries_and_the_next_is_examined(examiner, server, until):
    """One bad checkpoint doesn't stop the examiner, and is not tried for ever."""
    server.mode = "broken json"
    harness = examiner(attempts=3, concurrency=1)
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Alert))
    assert len(server.requests) == 3
    (alert,) = of(harness, Alert)
    assert (alert.rule, alert.step, alert.evidence["attempts"]) == ("checkpoint_not_examined", 1, 3)
    server.mode = "good"
    harness.feed(checkpoint(2))
    until(lambda: of(harness, Eval))
    assert [result.step for result in of(harness, Eval)] == [2]
    assert harness.context.leases["r@1:abc"] == []


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("broken json", "no JSON"),
        ("html", "no JSON: '<html><h1>It works!"),
        ("html error", "HTTP 502"),
        ("no choices", "`choices` is empty"),
        ("wrong shape", "Expected `array`, got `str` - at `$.choices`"),
        ("wrong model", "The model /models/checkpoint-1 does not exist."),
        ("redirect", "HTTP 307"),
        ("10 MB", "more than 4096 bytes"),
        ("endless", "more than 4096 bytes"),
        ("slow drip", "did not finish its answer within 0.3 s"),
        ("silent", "did not finish its answer within 0.3 s"),
        ("deep json", "no JSON"),
        ("not utf-8", "no JSON"),
        ("gzip bomb", "more than 4096 bytes"),
        ("bad gzip", "/chat/completions"),
        ("no http", "/chat/completions"),
        ("long header", "/chat/completions"),
        ("hang up", "broke the connection"),
    ],
)
def test_a_hostile_answer_is_a_clear_alert_and_nothing_hangs(mode, told, examiner, server, until):
    """Whatever the server sends, the alert says what it was, and the next checkpoint is examined."""
    server.mode = mode
    harness = examiner(attempts=2, max_answer_bytes=4096, timeout=0.3 if mode in ("slow drip", "silent") else 30.0)
    harness.feed(checkpoint(1))
    until(lambda: [alert for alert in of(harness, Alert) if alert.rule == "checkpoint_not_examined"])
    alert = of(harness, Alert)[-1]
    assert told in alert.message
    assert len(alert.message) < 1000
    assert of(harness, Eval) == of(harness, Sample) == []
    harness.stop()
    server.mode = "good"
    after = examiner(context=harness.context)
    after.feed(checkpoint(2))
    until(lambda: of(after, Eval))
    assert [result.step for result in of(after, Eval)] == [2]


def test_answers_that_came_are_kept_when_a_later_question_fails(examiner, server, until):
    """The second try asks only what is missing."""
    server.answer = lambda prompt: "x"
    harness = examiner(concurrency=1, attempts=1000)
    server.held.clear()
    harness.feed(checkpoint(1))
    until(lambda: server.requests)
    server.mode = "broken json"
    server.held.set()
    until(lambda: len(server.requests) >= 3)
    server.mode = "good"
    until(lambda: of(harness, Eval))
    asked = [body["messages"][-1]["content"] for body in server.requests]
    assert asked.count("1 + 1?") > 1
    assert [asked.count(f"{n} + {n}?") for n in range(2, 6)] == [1, 1, 1, 1]


def test_a_deleted_checkpoint_no_longer_waits(examiner, server, until):
    """Nobody asks for a model that is gone."""
    server.held.clear()
    harness = examiner(policy="every")
    harness.feed(checkpoint(1), checkpoint(2), checkpoint(2, state="deleted"), checkpoint(3))
    server.held.set()
    until(lambda: len(of(harness, Eval)) == 2)
    assert [result.step for result in of(harness, Eval)] == [1, 3]


def test_questions_are_asked_several_at_a_time_but_not_more(examiner, server, until):
    """Concurrency is a bound."""
    server.held.clear()
    harness = examiner(concurrency=3)
    harness.feed(checkpoint(1))
    until(lambda: server.at_once == 3)
    server.held.set()
    until(lambda: of(harness, Eval))
    assert server.most_at_once == 3


def test_the_key_is_taken_from_the_named_environment_variable(examiner, server, until, monkeypatch):
    """A key stands in no file and in no event."""
    monkeypatch.setenv("EXAM_KEY", "sesame")
    harness = examiner(api_key_env="EXAM_KEY", system="Be brief.", model="{name}", limit=1)
    harness.feed(checkpoint(1))
    until(lambda: of(harness, Eval))
    assert server.headers[0]["Authorization"] == "Bearer sesame"
    assert server.requests[0]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert server.requests[0]["model"] == "checkpoint-1"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"url": "localhost:8000"}, "plugin.inference.url"),
        ({"model": "{path.__class__}"}, "path.__class__"),
        ({"model": "{oops}"}, "'oops' can't be filled in"),
        ({"model": "{"}, "plugin.inference.model"),
        ({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_start(config, told, examiner):
    """With the key, what was found and what is allowed."""
    with pytest.raises(ConfigError, match=r".") as caught:
        examiner(**config)
    assert told in str(caught.value)


def test_a_missing_file_of_questions_is_refused_at_the_start(examiner, tmp_path):
    """With its name and what to do."""
    with pytest.raises(DataError, match="can't be read: No such file") as caught:
        examiner(questions=str(tmp_path / "none.jsonl"))
    assert caught.value.facts["file"].endswith("none.jsonl")
