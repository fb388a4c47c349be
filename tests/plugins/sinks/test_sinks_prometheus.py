"""/metrics, fetched over HTTP and read by Prometheus' own parser."""

import math
import os
import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.plugins.sinks.conftest import story
from trainbus.bus.events import Alert, RunEnded, Step
from trainbus.errors import ConfigError
from trainbus.plugins.sinks.exposition import MAX_RUNS, MAX_SERIES
from trainbus.plugins.sinks.prometheus import PrometheusSink


def get(url, token=""):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode()


def samples(one, token=""):
    """Value by name and labels."""
    families = list(text_string_to_metric_families(get(one.context.url, token)))
    return {(sample.name, *sorted(sample.labels.values())): sample.value for family in families for sample in family.samples}


def test_the_last_values_states_alerts_and_counts_are_shown(bus):
    """NaN and infinities as Prometheus has them."""
    one = bus(PrometheusSink, port=0)
    one.publish(*story()[:4])
    found = samples(one)
    assert math.isnan(found["trainbus_metric", "loss", "r-1"])
    assert found["trainbus_run_state", "r-1", "running"] == 1.0
    one.publish(*story()[4:])
    found = samples(one)
    assert found["trainbus_metric", "loss", "r-1"] == 0.2
    assert found["trainbus_metric", "eval/gsm8k/accuracy", "r-1"] == 0.5
    assert found["trainbus_metric", "r-1", "temperature"] == math.inf
    assert found["trainbus_step", "r-1"] == 5.0
    assert found["trainbus_events_total", "r-1", "step"] == 5.0
    assert found["trainbus_alerts", "critical", "nan", "r-1"] == 1.0
    assert found["trainbus_run_state", "failed", "r-1"] == 1.0
    assert found["trainbus_run_state", "r-1", "running"] == 0.0
    one.publish(Alert(run="r-1", id="nan:r-1:3", rule="nan", state="cleared"))
    assert ("trainbus_alerts", "critical", "nan", "r-1") not in samples(one)


def test_counters_are_exact_through_kills(bus):
    """Their state moves with the cursor: what comes again was not counted yet."""
    one = bus(PrometheusSink, port=0)
    for step in range(30):
        one.publish(Step(run="r-1", step=step, metrics={"loss": 1.0}))
        if step % 4 == 1:
            one.commit()
        if step % 7 == 6:
            server = next(iter(one.harness.manager.get_plugins()))._server
            server.shutdown()
            server.server_close()
            one.kill()
            one.start()
    assert samples(one)["trainbus_events_total", "r-1", "step"] == 30.0


def test_memory_is_bounded_in_runs_and_series(bus):
    """Ended runs go first, and after their time; what was left out is counted."""
    one = bus(PrometheusSink, port=0, keep=1.0)
    one.publish(RunEnded(run="ended", outcome="completed"))
    one.publish(*(Step(run=f"r-{number}", step=1) for number in range(MAX_RUNS)))
    one.publish(Step(run="r-0", step=2, metrics={f"m{number}": 1.0 for number in range(MAX_SERIES + 7)}))
    found = samples(one)
    assert ("trainbus_step", "ended") not in found
    assert found["trainbus_points_dropped_total", "r-0"] == 7.0
    one.publish(RunEnded(run="r-0", outcome="completed"))
    assert one.write() == 10.0
    assert ("trainbus_step", "r-0") not in samples(one)
    assert "run/r-0" not in one.context.state


def test_only_metrics_is_served_and_elsewhere_a_token_is_needed(bus, tmp_path):
    """Loopback is the machine's own; any other address is refused without a private file with a token."""
    one = bus(PrometheusSink, port=0)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(one.context.url.replace("/metrics", "/"))
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0 can be reached from elsewhere"):
        bus(PrometheusSink, port=0, host="0.0.0.0")
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="others can read"):
        bus(PrometheusSink, port=0, token_file=str(secret))
    secret.chmod(0o600)
    guarded = bus(PrometheusSink, port=0, token_file=str(secret))
    guarded.publish(Step(run="r-1", step=1))
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(guarded.context.url)
    assert samples(guarded, "s3cret")["trainbus_step", "r-1"] == 1.0


def test_a_port_that_is_taken_is_named(bus):
    """With what to do."""
    one = bus(PrometheusSink, port=0)
    port = int(one.context.url.rpartition(":")[2].removesuffix("/metrics"))
    with pytest.raises(ConfigError, match=f"127.0.0.1:{port} can't be listened on: {os.strerror(98)}") as caught:
        bus(PrometheusSink, port=port)
    assert "0 lets the system choose" in caught.value.hint
