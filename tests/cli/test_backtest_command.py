"""`trainbus backtest` as people and scripts call it."""

import json

import pytest

from trainbus.cli import app


@pytest.fixture
def logs(tmp_path):
    """A folder with a healthy and a broken log and labels beside them."""
    folder = tmp_path / "logs"
    folder.mkdir()
    healthy = [f"{step},{2 - 0.004 * step + 0.01 * (step % 7)}" for step in range(100)]
    broken = [*healthy[:60], "60,nan", "61,nan", *[f"{step},9.{step}" for step in range(62, 100)]]
    for name, rows in (("good", healthy), ("bad", broken)):
        (folder / f"{name}.csv").write_text("step,loss\n" + "\n".join(rows) + "\n")
    labels = [{"kind": "nan", "start_step": 60, "end_step": 61, "confidence": "high"}]
    labels.append({"kind": "divergence", "start_step": 62, "end_step": 99, "confidence": "medium"})
    (folder / "labels.json").write_text(
        json.dumps({"runs": [{"file": "good.csv", "labels": "healthy"}, {"file": "bad.csv", "labels": labels}]})
    )
    return folder


def objects(capsys):
    return [json.loads(line, parse_constant=pytest.fail) for line in capsys.readouterr().out.splitlines()]


def test_json_is_one_object_a_finding(logs, capsys):
    """With the file as it was named."""
    assert app.run(["backtest", "--json", str(logs / "bad.csv"), str(logs / "good.csv")]) == 0
    found = objects(capsys)
    wanted = {"file", "rule", "kind", "severity", "step", "start_step", "end_step", "message"}
    assert all(wanted <= one.keys() for one in found)
    assert {one["file"] for one in found} == {str(logs / "bad.csv")}
    assert ("nan", "critical", 60) in {(one["kind"], one["severity"], one["step"]) for one in found}


def test_with_labels_beside_the_logs_the_score_is_printed_and_written(logs, capsys, tmp_path):
    """A folder stands for the logs in it."""
    assert app.run(["backtest", str(logs), "--scores", str(tmp_path / "scores.json"), "--plot", str(tmp_path / "out.html")]) == 0
    printed = capsys.readouterr().out
    assert "precision 1.000, 0 false alerts" in printed
    assert "non_finite" in printed
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["recall"] == {"high": 1.0, "medium": 1.0}
    assert scores["kinds"]["nan"][:2] == [1, 1]
    assert "<svg" in (tmp_path / "out.html").read_text()


def test_settings_change_what_is_said_and_two_configurations_are_compared(logs, capsys):
    """What only one of them says is marked."""
    off = "plugin.anomaly.rules.non_finite.enabled=false"
    assert app.run(["backtest", "--json", "--set", off, str(logs / "bad.csv")]) == 0
    assert "nan" not in {one["kind"] for one in objects(capsys)}
    assert app.run(["backtest", "--json", "--against-set", off, str(logs / "bad.csv")]) == 0
    assert {(one["in"], one["rule"]) for one in objects(capsys)} >= {("a", "non_finite"), ("both", "divergence")}
    assert app.run(["backtest", "--against-set", off, str(logs / "bad.csv")]) == 0
    assert "only before (-)" in capsys.readouterr().out


def test_the_preset_can_be_chosen(logs, capsys):
    """Classic rules on a recorded history."""
    assert app.run(["backtest", "--json", "--preset", "classic", str(logs / "bad.csv")]) == 0
    assert "loss_upward" in {one["rule"] for one in objects(capsys)}


def test_a_run_of_the_journal_is_read_by_its_id(a_run, capsys):
    """Its last loss is NaN."""
    assert app.run(["backtest", "--json", "--severity", "critical", a_run]) == 0
    assert [(one["file"], one["rule"], one["step"]) for one in objects(capsys)] == [(a_run, "non_finite", 10)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["missing.csv"], "does not exist"), (["."], "holds no log"), (["a.csv", "--scores", "s.json", "--no-labels"], "needs labels")],
)
def test_mistakes_are_told_in_a_sentence(tmp_path, monkeypatch, capsys, arguments, said):
    """And the command fails."""
    monkeypatch.chdir(tmp_path)
    assert app.run(["backtest", *arguments]) != 0
    assert said in capsys.readouterr().err
