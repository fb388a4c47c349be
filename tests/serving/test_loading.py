"""Only safetensors, never code; and errors that say what to do."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from tests.serving.conftest import SHAPE, make_adapter, make_model
from trainbus.errors import ModelError
from trainbus.serving.generation import Generator
from trainbus.serving.loading import load
from trainbus.serving.requests import Options


def refused(place, match, **options):
    with pytest.raises(ModelError, match=match) as error:
        load(place, **{"device": "cpu", **options})
    assert error.value.hint


def test_an_adapter_finds_its_base(models, tmp_path):
    """By the path that it names, by one relative to itself, or by the one that is given."""
    loaded = load(models / "checkpoint-1", device="cpu")
    assert (loaded.place, loaded.adapter) == (models / "base", models / "checkpoint-1")
    with Generator(loaded.model, loaded.tokenizer, adapter=loaded.adapter) as generator:
        own = generator.complete("abc", Options(max_tokens=10)).text
        assert own != generator.complete("abc", Options(max_tokens=10), adapter="").text

    moved = shutil.copytree(models / "checkpoint-1", tmp_path / "moved")
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "elsewhere/base"}))
    refused(moved, "elsewhere/base")
    assert load(moved, base=models / "base", device="cpu").place == models / "base"
    (moved / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "../base"}))
    (tmp_path / "base").symlink_to(models / "base")
    assert load(moved, device="cpu").place.resolve() == models / "base"


def test_pickles_are_refused(models, tmp_path):
    """Weights of a base or an adapter that are not safetensors are not touched."""
    for name, weights, pickle in (
        ("base", "model.safetensors", "pytorch_model.bin"),
        ("checkpoint-1", "adapter_model.safetensors", "adapter_model.bin"),
    ):
        place = shutil.copytree(models / name, tmp_path / name)
        (place / weights).unlink()
        refused(place, "no weights")
        torch.save({}, place / pickle)
        refused(place, "pickle")


def test_code_of_a_folder_is_not_run(models, tmp_path):
    """A model that needs its own code is refused, and the code leaves no trace."""
    place = shutil.copytree(models / "base", tmp_path / "base")
    (place / "own.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\n")
    config = json.loads((place / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}}
    (place / "config.json").write_text(json.dumps(config))
    refused(place, "can't be loaded")
    assert not (tmp_path / "run").exists()


def test_what_is_no_model_is_named(models, tmp_path):
    """Each lack has its own sentence."""
    refused(tmp_path / "nowhere", "no folder")
    refused(tmp_path, r"no config\.json")
    place = shutil.copytree(models / "base", tmp_path / "base")
    (place / "tokenizer.json").unlink()
    refused(place, "no tokenizer")
    shutil.copy(models / "base" / "tokenizer.json", place)
    (place / "model.safetensors").write_bytes(b"torn")
    refused(place, "can't be loaded")
    refused(models / "base", "device", device="cuda:99")
    refused(models / "base", "data type", dtype="int3")


def test_adapters_that_would_change_the_base_are_refused(models, tmp_path):
    """PiSSA and the like, other kinds, those of another base, torn files; the generator goes on as before."""
    plain = json.loads((models / "checkpoint-1" / "adapter_config.json").read_text())
    changes = ({"init_lora_weights": "pissa"}, {"layer_replication": [[0, 1]]}, {"peft_type": "IA3"}, {"megatron_config": {"a": 1}})
    own = load(models / "base", device="cpu")
    with Generator(own.model, own.tokenizer) as generator:
        before = generator.complete("abc", Options(max_tokens=10)).text
        for number, change in enumerate(changes):
            place = shutil.copytree(models / "checkpoint-1", tmp_path / str(number))
            (place / "adapter_config.json").write_text(json.dumps({**plain, **change}))
            with pytest.raises(ModelError):
                generator.add_adapter("wrong", place)
        for number, shape in enumerate(({"num_hidden_layers": 3}, {"hidden_size": 32})):
            other = make_model(tmp_path / f"other{number}", {**SHAPE, **shape})
            with pytest.raises(ModelError):
                generator.add_adapter("wrong", make_adapter(other, tmp_path / f"of-other{number}", 1))
        torn = shutil.copytree(models / "checkpoint-1", tmp_path / "torn")
        (torn / "adapter_model.safetensors").write_bytes(b"torn")
        with pytest.raises(ModelError):
            generator.add_adapter("wrong", torn)
        assert generator.adapters == ()
        assert generator.complete("abc", Options(max_tokens=10)).text == before
        generator.add_adapter("right", models / "checkpoint-2")
        assert generator.complete("abc", Options(max_tokens=10), adapter="right").text != before
