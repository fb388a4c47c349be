"""The mask as it reaches the model: none at all is refused, an unusual share is told."""

from __future__ import annotations

import json

import pytest

from trainbus.bus.run import init
from trainbus.cli.app import UsageError, cli
from trainbus.errors import DataError
from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.dataset.statistics import lengths, require_masked, require_whole
from trainbus.trainer_node.formats import Example, Turn
from trainbus.trainer_node.job import run_job
from trainbus.trainer_node.masking import CALM_BATCHES, MaskWatch
from trainbus.trainer_node.tokens import tokenize


def test_conversations_without_a_mask_are_refused_and_a_thin_one_is_told():
    """0 % masked: questions would be learned like answers, so nothing begins; below 30 % a person is told (A-82)."""
    tokenizer = byte_tokenizer()
    unmasked = tokenize([Example(text="all of it is learned")], tokenizer, 100)
    require_masked(unmasked, "d.jsonl", "text")
    with pytest.raises(DataError, match="every token carries loss"):
        require_masked(unmasked, "d.jsonl", "messages")
    thin = tokenize([Example(turns=(Turn("user", "q"), Turn("assistant", "x" * 40)))], tokenizer, 100)
    require_masked(thin, "d.jsonl", "messages")
    assert "hardly any prompt" in lengths(thin, 100, row_format="messages").advice[0]


def test_an_unusual_batch_is_told_once_for_each_incident(published):
    """Masked 30 to 85 % is usual, both ends too; the incident is over when batches have been usual for a while (L-34)."""
    with init("r") as run:
        watch = MaskWatch(run, "d.jsonl")
        for learned in (15, 70):
            watch.saw(learned, 100)
        assert watch.stats().unusual == 0
        for learned in (14, 50, 71, 0, *[50] * CALM_BATCHES, 71):
            watch.saw(learned, 100)
        assert (watch.stats().batches, watch.stats().unusual) == (7 + CALM_BATCHES, 4)
    alerts = published("alert")
    assert [(alert.state, alert.severity) for alert in alerts] == [("raised", "info"), ("cleared", "info"), ("raised", "info")]
    assert alerts[0].id == alerts[1].id != alerts[2].id
    assert alerts[0].evidence == {"batch": 3, "learned": 14, "tokens": 100}


def test_a_training_tells_the_batches_that_it_gives_to_the_model(tiny_base, tmp_path, published):
    """Padding counts for nothing; plain text, all of which is learned, is not judged."""

    def train(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        run_job(
            TrainerConfig(model=str(tiny_base), data=str(path), output=str(tmp_path / path.stem), method="full", max_steps=1, max_length=99)
        )

    train("text.jsonl", [{"text": "all of it is learned"}] * 4)
    assert published("alert") == []
    train("short.jsonl", [{"question": "a" * 40, "answer": "b" * 30}] * 3 + [{"question": "a", "answer": "b"}])
    assert published("alert") == []
    train("long.jsonl", [{"question": "a", "answer": "b" * 60}] * 4)
    (alert,) = published("alert")
    assert (alert.rule, "long.jsonl" in alert.message) == ("masked_ratio", True)


def test_data_that_are_too_long_can_be_refused(tmp_path, tiny_base, capsys):
    """By a training and by `data check`, with the length that would do; by default they are cut (A-75)."""
    long = tokenize([Example(turns=(Turn("user", "q"), Turn("assistant", "x" * n)), line=n) for n in (9, 90)], byte_tokenizer(), 40)
    with pytest.raises(DataError, match=r"1 examples are longer than max_length = 40 \(lines 90\)") as caught:
        require_whole(long, "d.jsonl", 40)
    assert "max_length = 128" in caught.value.hint
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"question": "q" * 20, "answer": "x" * 90}) + "\n")
    check = ["data", "check", str(path), "--model", str(tiny_base), "--set", "trainer.max_length=64"]
    assert cli.main(check, standalone_mode=False) == 0
    assert cli.main([*check, "--set", "trainer.too_long=refuse"], standalone_mode=False) == 7
    assert "longer than max_length" in " ".join(capsys.readouterr().err.split())


def test_auto_adjust_writes_the_length_that_cuts_nothing_and_only_when_asked(tmp_path, tiny_base, capsys):
    """Without the flag it is only told; with it, the one line is changed and all else stays (A-79)."""
    path, config = tmp_path / "d.jsonl", tmp_path / "trainbus.toml"
    path.write_text(json.dumps({"question": "q" * 20, "answer": "x" * 90}) + "\n")
    before = f'# mine\n[trainer]\nmodel = "{tiny_base}"\nmax_length = 64  # too little\n\n[bus]\n'
    config.write_text(before)
    check = ["data", "check", str(path), "--config", str(config)]
    assert cli.main([*check, "--level", "deep"], standalone_mode=False) == 0
    assert "max_length = 128 would cut none" in capsys.readouterr().out
    assert config.read_text() == before
    assert cli.main([*check, "--auto-adjust"], standalone_mode=False) == 0
    assert config.read_text() == before.replace("max_length = 64", "max_length = 128")
    assert cli.main([*check, "--auto-adjust"], standalone_mode=False) == 0
    assert "nothing is changed" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match="no model is named"):
        cli.main(["data", "check", str(path), "--level", "deep"], standalone_mode=False)
