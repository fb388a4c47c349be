"""Sinks of other programs, read back by these programs' own readers; each told a story, then killed at every moment."""

import gzip
import json
import math
import os
import random
import struct
import subprocess
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from tests.plugins.sinks.conftest import START, story
from tests.support import wait_for
from trainbus.bus.events import RunStarted, Step
from trainbus.errors import ConfigError
from trainbus.plugins.sinks.mlflow import MlflowSink
from trainbus.plugins.sinks.opentelemetry import OpenTelemetrySink
from trainbus.plugins.sinks.wandb import BLOCK, HEAD, WandbSink, framed


def killed_at_random(one, seed, steps=60):
    """Publish steps, write, commit and kill in any order; at the end all is written."""
    chance = random.Random(seed)
    one.publish(RunStarted(run="r-1", config={"a": 1}))
    for step in range(1, steps + 1):
        one.publish(Step(run="r-1", step=step, metrics={"loss": 1.0 / step}))
        if chance.random() < 0.2:
            one.write()
        if chance.random() < 0.2:
            one.commit()
        if chance.random() < 0.1:
            one.kill()
            one.start()
    one.write()
    return list(range(1, steps + 1))


# --- OpenTelemetry ---


@pytest.fixture
def collector():
    """A receiver of OTLP/HTTP on loopback: requests as opentelemetry-proto decodes them, headers, and the answers that it gives first."""
    heard, answers = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = answers.pop(0) if answers else 200
            if status == 200:
                heard.append((ExportMetricsServiceRequest.FromString(body), dict(self.headers)))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/metrics", heard, answers
    server.shutdown()
    thread.join(90)
    server.server_close()


def gauges(heard):
    """(time, value, attributes) by name, over all requests."""
    found = {}
    for request, _ in heard:
        for metric in request.resource_metrics[0].scope_metrics[0].metrics:
            for point in metric.gauge.data_points:
                attributes = {pair.key: pair.value.string_value for pair in point.attributes}
                value = point.as_double if point.HasField("as_double") else point.as_int
                found.setdefault(metric.name, []).append((point.time_unix_nano, value, attributes))
    return found


def test_every_point_arrives_at_the_collector_with_its_own_time(bus, collector, monkeypatch):
    """NaN too; the service and headers as configured."""
    url, heard, _ = collector
    monkeypatch.setenv("OTLP_HEADERS", "x-key=abc, x-team=t")
    one = bus(OpenTelemetrySink, endpoint=url, headers_env="OTLP_HEADERS", service="lab")
    one.publish(*story())
    one.write()
    found = gauges(heard)
    loss = found["trainbus.loss"]
    assert [time for time, _, _ in loss] == [START + offset * 10**9 for offset in range(1, 6)]
    assert math.isnan(loss[2][1])
    assert loss[0] == (START + 10**9, 1.0, {"trainbus.run": "r-1"})
    assert found["trainbus.eval.gsm8k.accuracy"][0][1] == 0.5
    assert found["trainbus.temperature"][0][1] == math.inf
    assert [value for _, value, _ in found["trainbus.step"]] == [1, 2, 3, 4, 5]
    assert found["trainbus.alert"][0][2]["rule"] == "nan"
    request, headers = heard[0]
    assert {pair.key: pair.value.string_value for pair in request.resource_metrics[0].resource.attributes}["service.name"] == "lab"
    assert (headers["x-key"], headers["x-team"]) == ("abc", "t")


def test_what_a_collector_refuses_comes_again_and_a_kill_repeats_the_same_samples(bus, collector, monkeypatch):
    """OTLP has no idempotence: a repeated point has the same time and value, and none is missing."""
    monkeypatch.setattr("trainbus.plugins.sinks.outflow.FIRST_PAUSE", 0.0)
    url, heard, answers = collector
    one = bus(OpenTelemetrySink, endpoint=url)
    answers.append(400)
    one.publish(Step(run="r-1", step=0, metrics={"loss": 2.0}))
    one.write()
    assert one.stats.failures == 1
    killed_at_random(one, 7, steps=20)
    points = [(time, value) for time, value, _ in gauges(heard)["trainbus.loss"]]
    assert len(set(points)) == 21


@pytest.mark.parametrize(("value", "said"), [("", "is not set"), ("nonsense", "holds no headers")])
def test_headers_that_are_none_are_refused_without_showing_them(bus, monkeypatch, value, said):
    """They are secrets."""
    monkeypatch.setenv("OTLP_HEADERS", value)
    with pytest.raises(ConfigError, match=said) as caught:
        bus(OpenTelemetrySink, headers_env="OTLP_HEADERS")
    assert not value or value not in str(caught.value)


# --- Weights & Biases ---


def wandb_records(file):
    """The records of an offline run: wandb's framing, read by hand (this version of wandb reads it in Go), and its own messages."""
    from wandb.proto import wandb_internal_pb2

    content = file.read_bytes()
    assert content[:7] == HEAD
    place, parts, parted, found = 7, b"", False, []
    while place < len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        checksum, length, form = struct.unpack_from("<IHB", content, place)
        part = content[place + 7 : place + 7 + length]
        assert zlib.crc32(bytes([form]) + part) == checksum
        assert parted == (form in (3, 4))
        parts, parted = parts + part, form in (2, 3)
        if not parted:
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
        place += 7 + length
    assert not parted
    return found


def history(file):
    rows = [record.history for record in wandb_records(file) if record.HasField("history")]
    return [{item.nested_key[0]: float(item.value_json) for item in row.item} for row in rows]


def wandb_file(directory, run="r-1"):
    (file,) = directory.glob(f"offline-run-*-{run}/run-{run}.wandb")
    return file


def test_wandb_gets_an_offline_run_with_configuration_rows_and_end(bus, tmp_path):
    """Its own step rises by the offset; charts go by the training's step."""
    one = bus(WandbSink, directory=str(tmp_path / "out"), project="p", entity="team")
    one.publish(*story())
    one.write()
    records = wandb_records(wandb_file(tmp_path / "out"))
    kinds = [record.WhichOneof("record_type") for record in records]
    assert kinds[:5] == ["header", "run", "metric", "metric", "config"]
    assert kinds[-1] == "exit"
    about, axis = records[1].run, records[3].metric
    assert (about.run_id, about.project, about.entity) == ("r-1", "p", "team")
    assert (axis.glob_name, axis.step_metric) == ("*", "step")
    assert {item.key: item.value_json for item in records[4].config.update} == {"lr": "0.0001", "model": '{"name": "tiny", "layers": 2}'}
    assert records[-1].exit.exit_code == 3
    rows = history(wandb_file(tmp_path / "out"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 5, 5]
    assert math.isnan(rows[2]["loss"])
    assert rows[5]["eval/gsm8k/accuracy"] == 0.5
    assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})
    assert rows[0]["_timestamp"] == START / 1e9 + 1


@pytest.mark.parametrize("seed", range(3))
def test_wandb_has_each_row_once_wherever_the_process_is_killed(bus, tmp_path, seed):
    """The file is cut to what the ledger says."""
    one = bus(WandbSink, directory=str(tmp_path / "out"))
    expected = killed_at_random(one, seed)
    assert [row["step"] for row in history(wandb_file(tmp_path / "out"))] == expected


def test_long_and_many_records_cross_blocks(tmp_path):
    """Of 32 KiB; no record begins in the last six bytes of one."""
    from wandb.proto import wandb_internal_pb2

    chance = random.Random(1)
    records = []
    for _ in range(200):
        record = wandb_internal_pb2.Record()
        record.uuid = "x" * chance.choice((0, 10, 1000, 32_750, 32_760, 70_000))
        records.append(record.SerializeToString())
    content = HEAD
    for start in range(0, 200, 7):
        content += framed(records[start : start + 7], len(content))
    file = tmp_path / "run.wandb"
    file.write_bytes(content)
    assert [record.SerializeToString() for record in wandb_records(file)] == records


@pytest.mark.slow
def test_wandbs_own_offline_run_is_read_by_the_reader_of_these_tests(tmp_path, monkeypatch):
    """So that what it says of our files means something."""
    import wandb

    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = wandb.Settings(console="off", x_disable_stats=True, x_disable_meta=True)
    run = wandb.init(project="p", id="theirs", mode="offline", dir=str(tmp_path), settings=settings)
    run.log({"loss": 1.0})
    run.log({"loss": math.nan})
    run.finish()
    (file,) = tmp_path.rglob("run-theirs.wandb")
    wait_for(lambda: file.stat().st_size > len(HEAD), 60.0, what="wandb-core to write")  # `finish` does not wait for it
    rows = history(file)
    assert rows[0]["loss"] == 1.0
    assert math.isnan(rows[1]["loss"])


@pytest.fixture
def wandb_server():
    """As much of W&B's server as `wandb sync` asks for, on loopback: its address, and what was streamed to it."""
    streamed = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            asked, answer = json.loads(body), {}
            if "upsertBucket" in asked.get("query", ""):
                project = {"id": "cA==", "name": "p", "entity": {"id": "ZQ==", "name": "team"}}
                bucket = {"id": "aWQ=", "name": "r-1", "displayName": "r-1", "config": "{}", "project": project, "historyLineCount": 0}
                answer = {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
            elif "files" in asked:
                streamed.append(asked)
            content = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", streamed
    server.shutdown()
    thread.join(90)
    server.server_close()


@pytest.mark.slow
def test_wandb_itself_syncs_the_offline_run_to_a_server(bus, tmp_path, wandb_server):
    """Its own reader: rows, summary and exit code arrive, NaN as NaN."""
    url, streamed = wandb_server
    one = bus(WandbSink, directory=str(tmp_path / "out"), project="p", entity="team")
    one.publish(*story())
    one.write()
    settings = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "a" * 40, "HOME": str(tmp_path), "WANDB_ERROR_REPORTING": "false", "NO_PROXY": "*"}
    program = [sys.executable, "-m", "wandb", "sync", "--yes", str(wandb_file(tmp_path / "out").parent)]
    environment = {**os.environ, **settings}
    result = subprocess.run(program, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for part in streamed for line in part["files"].get("wandb-history.jsonl", {}).get("content", ())]
    assert [row["step"] for row in lines] == [1, 2, 3, 4, 5, 5, 5]
    assert math.isnan(lines[2]["loss"])
    assert json.loads(streamed[-1]["files"]["wandb-summary.json"]["content"][-1])["loss"] == 0.2
    assert (streamed[-1]["complete"], streamed[-1]["exitcode"]) == (True, 3)


# --- MLflow: its import takes seconds ---


@pytest.fixture
def mlflow_client(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    return uri, MlflowClient(tracking_uri=uri)


@pytest.mark.slow
def test_mlflow_gets_a_run_with_parameters_metrics_and_end(bus, mlflow_client):
    """In its own database, read by its own client."""
    uri, client = mlflow_client
    one = bus(MlflowSink, tracking_uri=uri, experiment="lab")
    one.publish(*story())
    one.write()
    assert one.stats.failures == 0
    (found,) = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    assert found.info.run_name == "r-1"
    assert found.info.status == "FAILED"
    assert found.data.params == {"lr": "0.0001", "model.name": "tiny", "model.layers": "2"}
    loss = client.get_metric_history(found.info.run_id, "loss")
    assert [(metric.step, metric.timestamp) for metric in loss] == [(step, START // 10**6 + step * 1000) for step in range(1, 6)]
    assert math.isnan(loss[2].value)
    assert found.data.metrics["eval/gsm8k/accuracy"] == 0.5


@pytest.mark.slow
def test_mlflow_has_each_metric_once_through_kills_and_a_resumed_run_goes_on(bus, mlflow_client):
    """The store passes over what it has; the run is found again by its tag."""
    uri, client = mlflow_client
    one = bus(MlflowSink, tracking_uri=uri)
    expected = killed_at_random(one, 3, steps=30)
    one.publish(*[event for event in story() if event.kind == "run_ended"], RunStarted(run="r-1", config={"a": 2, "b": 3}))
    one.write()
    (found,) = client.search_runs([client.get_experiment_by_name("trainbus").experiment_id])
    assert [metric.step for metric in client.get_metric_history(found.info.run_id, "loss")] == expected
    assert found.info.status == "RUNNING"
    assert found.data.params == {"a": "1", "b": "3"}


def test_mlflows_folder_of_files_is_refused(bus, tmp_path):
    """It would keep a metric twice that comes twice."""
    with pytest.raises(ConfigError, match="is a folder of files") as caught:
        bus(MlflowSink, tracking_uri=str(tmp_path))
    assert f"sqlite:///{tmp_path}/mlflow.db" in caught.value.hint
