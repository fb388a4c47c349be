"""`trainbus create` and `trainbus help`: B-01, B-05 and B-08."""

from __future__ import annotations

import json

import pytest

from trainbus.cli.app import run


@pytest.fixture
def cli(capsys):
    """Runs a command; gives exit code and output, parsed where it is JSON."""

    def call(*arguments):
        capsys.readouterr()
        code = run(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if "--json" in arguments else captured.out + captured.err

    return call


def parameters(vocabulary, width, layers, inner):
    """Of a Qwen3 with as many key as query heads and tied embeddings; the head's norms have its width, here a quarter."""
    attention, norms = 4 * width * width + 2 * (width // 4), 2 * width
    return vocabulary * width + layers * (attention + 3 * width * inner + norms) + width


def test_a_made_model_is_what_was_asked_for_and_can_be_looked_at_asked_saved_and_deleted(cli, tmp_path):
    """B-05, B-08: its parameters are those of the formula; the whole circle of create, info, infer, save and delete."""
    place, copy = tmp_path / "new", tmp_path / "copy"
    size = ("--embedding", 32, "--layers", 2, "--heads", 4, "--context", 64)
    code, told = cli("create", place, *size, "--vocabulary", 300, "--json")
    assert code == 0, told
    assert told["parameters"] == parameters(300, 32, 2, 96)
    model = cli("models", "info", place, "--json")[1]["model"]
    assert (model["parameters"], model["layers"], model["vocabulary"], model["context"]) == (told["parameters"], 2, 300, 64)
    assert cli("infer", "--model", place, "--prompt", "x", "--max-tokens", 2, "--json")[0] == 0
    assert cli("models", "save", place, copy)[0] == 0
    assert (copy / "model.safetensors").read_bytes() == (place / "model.safetensors").read_bytes()
    assert cli("create", tmp_path / "twin", *size, "--vocabulary", 300)[0] == 0
    assert (tmp_path / "twin/model.safetensors").read_bytes() == (place / "model.safetensors").read_bytes()
    assert cli("models", "delete", place, "--yes")[0] == 0
    assert not place.exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--heads", 7), 2, "can't be shared by 7 heads"),
        (("--vocabulary", 5), 2, "too small for a tokenizer with 262 tokens"),
        (("--settings", "none.json"), 2, "can't be read"),
    ],
)
def test_what_fits_together_no_model_is_refused(cli, tmp_path, arguments, code, says):
    """And nothing is left."""
    got, told = cli("create", tmp_path / "new", *arguments)
    assert (got, says in told) == (code, True), told
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    assert cli("create", tmp_path / "there")[0] == 8


def test_help_lists_the_commands_and_explains_one(cli):
    """B-01: as --help does; an unknown command is not 0."""
    code, text = cli("help")
    assert code == 0
    assert all(word in text for word in ("train ", "infer ", "create ", "help "))
    assert cli("help", "models", "delete") == (0, cli("models", "delete", "--help")[1])
    code, text = cli("help", "nonsense")
    assert code == 2
    assert "There is no command `nonsense`" in text
    assert cli("nonsense")[0] == 2
