"""A version of an adapter that was merged into its base: a real adapter of a real, tiny model."""

import pytest

from trainbus.cli.app import run
from trainbus.plugins.retention import versions
from trainbus.plugins.retention.verify import verify

pytestmark = pytest.mark.slow


@pytest.fixture
def adapter(tmp_path):
    """A LoRA adapter that changes the model's answers, as a checkpoint directory."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    small = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    base = Qwen3ForCausalLM(Qwen3Config(vocab_size=32, **small))
    base.save_pretrained(tmp_path / "base")
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    path = tmp_path / "out/checkpoint-5"
    model.save_pretrained(path)
    (path / "trainer_state.json").write_text('{"global_step": 5}')
    return path, model


def test_a_merged_version_answers_as_the_adapter_did(tmp_path, adapter):
    """With its digests; without a backup of the adapter it would not have begun."""
    import torch
    from transformers import Qwen3ForCausalLM

    path, model = adapter
    assert run(["checkpoints", "promote", str(path), "--merge", "--set", f"backup_to={tmp_path}/backup"]) == 0
    (version,) = versions.listed(path.parent / "versions")
    assert (version.kind, version.merged) == ("model", True)
    assert verify(path.parent / "versions/v001").faults == ()
    merged = Qwen3ForCausalLM.from_pretrained(path.parent / "versions/v001")
    tokens = torch.arange(8)[None]
    assert torch.allclose(merged(tokens).logits, model(tokens).logits, atol=1e-4)


def test_an_adapter_can_be_saved_as_a_whole_model(tmp_path, adapter):
    """`trainbus models save --merge`: the same merge, into a folder of one's own."""
    import torch
    from transformers import Qwen3ForCausalLM

    path, model = adapter
    assert run(["models", "save", str(path), str(tmp_path / "whole"), "--merge"]) == 0
    tokens = torch.arange(8)[None]
    assert torch.allclose(Qwen3ForCausalLM.from_pretrained(tmp_path / "whole")(tokens).logits, model(tokens).logits, atol=1e-4)


def test_a_backup_that_fails_stops_the_merge_before_it_begins(tmp_path, adapter):
    """Nothing is made."""
    path, _ = adapter
    (tmp_path / "file").write_text("in the way")
    assert run(["checkpoints", "promote", str(path), "--merge", "--set", f"backup_to={tmp_path}/file/x"]) != 0
    assert not (path.parent / "versions").exists()
