"""A training goes on in the middle of its data only as they were: the same model and length, and each position the same example."""

from __future__ import annotations

import json

import pytest

from trainbus.errors import ConfigError
from trainbus.trainer_node import checkpoints
from trainbus.trainer_node.byte_tokenizer import byte_tokenizer
from trainbus.trainer_node.config import Resume, TrainerConfig
from trainbus.trainer_node.dataset.preparing import Preparation
from trainbus.trainer_node.plan import make_plan


@pytest.fixture
def prepare(tmp_path):
    """The data of a job that goes on from a step (None: it begins), and what was told."""
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}?", "answer": str(i)}) + "\n" for i in range(30)))

    def run(step=None, *, job="j", unlock=False, template="", batch=0, **settings):
        told = []
        tokenizer = byte_tokenizer()
        tokenizer.chat_template += template
        config = TrainerConfig(data=str(path), **{"max_length": 64, **settings})
        preparation = Preparation(config, tokenizer, tolerant=False, root=tmp_path / "home", note=told.append)
        return preparation.run(tmp_path / "out", None, job=job, step=step, unlock=unlock, batch=batch), "\n".join(told)

    return run


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"packing": True}, "packing was false and is true"),
        ({"max_length": 80}, "max_length was 64 and is 80"),
        ({"seed": 7}, "seed was 42 and is 7"),
        ({"template": " "}, "the tokenizer or its chat template has changed"),
        ({"eval_fraction": 0.1}, "the evaluation set .* has changed"),
        ({"columns": {"question": "q"}}, "columns, schema or profile has changed"),
    ],
)
def test_a_position_is_not_taken_for_that_of_another_layout(prepare, changed, says):
    """A file that was not begun may change; one in its middle is refused with what has changed and what to do."""
    prepare()
    prepare(**changed)
    prepare()
    with pytest.raises(ConfigError, match=says) as caught:
        prepare(5, **changed)
    assert "--unlock" in caught.value.hint
    assert not prepare(5)[0].afresh


def test_an_unlocked_file_begins_anew_until_a_checkpoint_knows_its_new_position(prepare):
    """Also when the trainer dies in between: the checkpoint of before counts by the old layout, the next one by the new."""
    prepare()
    ready, told = prepare(5, unlock=True, packing=True)
    assert (ready.afresh, "the file is shown from its beginning" in told) == (True, True)
    assert prepare(5, packing=True)[0].afresh
    assert not prepare(6, packing=True)[0].afresh


def test_a_training_of_one_file_counts_its_batches_too(prepare):
    """Trainer finds its place by batches: the product must stay, its factors may change."""
    prepare(job="", batch=8)
    assert not prepare(5, job="", batch=8)[0].afresh
    with pytest.raises(ConfigError, match="batch_size x gradient_accumulation x processes was 8 and is 4"):
        prepare(5, job="", batch=4)
    assert not prepare(5, job="", batch=4, unlock=True)[0].afresh


@pytest.mark.parametrize(("key", "value"), [("max_length", 128), ("model", "another/model")])
def test_the_model_and_the_length_of_a_run_are_locked(tmp_path, tiny_base, questions, key, value):
    """Another one is refused by name, unless it is meant (A-88)."""
    path = tmp_path / "checkpoint-4"
    path.mkdir()
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "rng_state.pth"):
        (path / name).write_text(name)
    config = TrainerConfig(model=str(tiny_base), data=str(questions), output=str(tmp_path), max_length=64)
    about = checkpoints.RunFile(run="r", name="n", model=config.model, method="lora", max_length=64)
    checkpoints.write_run_file(tmp_path, about)
    checkpoints.seal(path, run="r", name="n", step=4)
    assert make_plan(config, Resume(wanted=True)).step == 4
    setattr(config, key, value)
    with pytest.raises(ConfigError, match=f"was trained with {key} = ") as caught:
        make_plan(config, Resume(wanted=True))
    assert (caught.value.facts["key"], "--unlock" in caught.value.hint) == (f"trainer.{key}", True)
    assert make_plan(config, Resume(wanted=True, unlock=True)).step == 4
