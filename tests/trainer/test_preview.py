"""``trainbus data``: what is wrong with a file, and what a model learns from it, before a training."""

from __future__ import annotations

import json

from tests.support import trainbus
from trainbus.trainer_node.dataset.statistics import percentile


def test_percentiles_are_by_nearest_rank():
    """As published tables define them: p95 of 1 to 100 is 95."""
    hundred = list(range(1, 101))
    assert [percentile(hundred, p) for p in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert percentile([7], 99) == 7


def test_check_gives_each_file_a_verdict_and_its_bad_lines(tmp_path, shared_data):
    """The real malformed files and a good one: exit code 7, every bad line with its reason, repeated examples counted."""
    good = tmp_path / "good.jsonl"
    good.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "a"}\n')
    files = sorted(path for path in (shared_data / "messy_jsonl").iterdir() if path.suffix != ".md")
    checked = trainbus("data", "check", str(good), *map(str, files), "--json")
    assert checked.returncode == 7, checked.stderr
    first, *others = json.loads(checked.stdout)
    assert (first["ok"], first["examples"], first["repeated"], first["format"]) == (True, 3, 1, "text")
    assert len(others) == 12
    assert all(not one["ok"] and (one["problem"] or one["rejected"]) for one in others)
    read = trainbus("data", "check", str(good))
    assert (read.returncode, "good.jsonl" in read.stdout) == (0, True)


def test_preview_shows_which_tokens_carry_loss_and_how_long_examples_are(tmp_path, tiny_base):
    """The answer is in brackets (and in colour on a terminal); what is cut is told."""
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"question": "why?" * n, "answer": "so"}) + "\n" for n in (1, 2, 30)))
    shown = trainbus("data", "preview", str(file), "--model", str(tiny_base), "--count", "2", "--set", "trainer.max_length=80")
    assert shown.returncode == 0, shown.stderr
    assert "3 examples, format question and answer" in shown.stdout
    assert "1 examples are cut at max_length = 80" in shown.stdout
    assert shown.stdout.count("⟦so") == 2
    assert "⟦why?" not in shown.stdout
    told = json.loads(trainbus("data", "preview", str(file), "--model", str(tiny_base), "--line", "2", "--json").stdout)
    assert "".join(piece["text"] for piece in told["examples"][0]["pieces"] if piece["learned"]).startswith("so")
    missing = trainbus("data", "preview", str(file), "--model", str(tiny_base), "--line", "9")
    assert (missing.returncode, "no example in line 9" in missing.stderr) == (7, True)


def test_preview_shows_packed_rows_with_what_carries_loss_and_where_examples_end(tmp_path, tiny_base):
    """Every example's answer is in brackets, and a bar stands between two examples."""
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps({"question": f"q{n}?", "answer": f"a{n}"}) + "\n" for n in range(6)))
    arguments = ("data", "preview", str(file), "--model", str(tiny_base), "--packed", "--set", "trainer.max_length=20")
    shown = trainbus(*arguments)
    assert shown.returncode == 0, shown.stderr
    assert [shown.stdout.count(f"⟦a{n}<|end|>⟧") for n in range(6)] == [1] * 6
    assert shown.stdout.count("│") == 3
    told = json.loads(trainbus(*arguments, "--line", "4", "--json").stdout)
    (row,) = told["examples"]
    assert 4 in row["lines"]
    assert [place for place, piece in enumerate(row["pieces"]) if piece["begins"]] == [0, row["tokens"] // 2]
