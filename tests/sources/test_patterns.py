"""Lines of output as the projects themselves print them."""

import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainbus.bus.events import Eval, Step
from trainbus.errors import ConfigError
from trainbus.sources.patterns import BUILT_IN, LineReader, Memory, chosen, own_pattern


def read(*lines, patterns=(), memory=None):
    reader = LineReader(patterns, memory=memory)
    return [event for line in lines for event in reader.feed(line + "\n")]


def test_transformers_dictionaries_are_steps_and_evals_at_the_step_of_the_bar():
    """Version 4 prints numbers, version 5 texts; the summary at the end is no step. tqdm writes both into one stream."""
    step, later, evaluated = read(
        "Loading weights: 100%|##########| 290/290 [00:00<00:00, 900.01it/s]",
        "  0%|          | 0/500 [00:00<?, ?it/s]\r  2%|2         | 10/500 [00:01<00:59, 8.33it/s]",
        "{'loss': 2.1034, 'grad_norm': 0.93, 'learning_rate': 5e-05, 'epoch': 0.02}",
        "  4%|4         | 20/500 [00:02<00:58, 8.30it/s]{'loss': 'nan', 'grad_norm': 'inf', 'learning_rate': '4.9e-05', 'epoch': '0.04'}",
        " 50%|#####     | 5/10 [00:00<00:00, 40.1it/s]",
        "{'eval_loss': '1.9', 'eval_runtime': '0.3', 'epoch': '0.04'}",
        "{'train_runtime': '12.1', 'train_loss': '2.0', 'epoch': '1'}",
        "{'a': 1, 'loss': 'no dictionary of a log'}",
    )
    assert (step.step, step.total_steps, step.epoch) == (10, 500, 0.02)
    assert step.metrics == {"loss": 2.1034, "grad_norm": 0.93, "learning_rate": 5e-05}
    assert later.step == 20
    assert math.isnan(later.metrics["loss"])
    assert later.metrics["grad_norm"] == math.inf
    assert evaluated == Eval(step=20, metrics={"loss": 1.9, "runtime": 0.3})


def test_without_a_bar_the_dictionaries_are_counted():
    """A log of standard output alone has no bar: tqdm writes to standard error."""
    found = read(*["{'loss': 1.0, 'epoch': 0.5}"] * 3, "{'eval_loss': 0.9, 'epoch': 1.0}", "{'loss': 1.0, 'epoch': 1.1}")
    assert [(event.kind, event.step) for event in found] == [("step", 1), ("step", 2), ("step", 3), ("eval", 3), ("step", 4)]


def test_nanogpt():
    """Its two lines."""
    evaluated, step, broken = read(
        "step 250: train loss 2.1012, val loss 2.2034",
        "iter 250: loss 2.0931, time 1234.56ms, mfu 12.30%",
        "iter 260: loss nan, time 99.10ms, mfu -100.00%, lr 6.00e-04",
    )
    assert evaluated == Eval(step=250, metrics={"train_loss": 2.1012, "loss": 2.2034})
    assert step == Step(step=250, metrics={"loss": 2.0931, "step_time_ms": 1234.56, "mfu": 12.3})
    assert math.isnan(broken.metrics.pop("loss"))
    assert broken.metrics == {"step_time_ms": 99.1, "mfu": -100.0, "learning_rate": 6e-4}


def test_llm_c_and_what_follows_its_lines():
    """train_gpt2.cu, train_gpt2.py, train_gpt2.c."""
    cuda, validated, python, plain = read(
        "step    7/18865 | loss 11.009463 (+nanz)| norm 15.4225 (+nanz)| lr 8.57e-07 | 1234.56 ms | 50.1% bf16 MFU | 424312 tok/s",
        "val loss 10.5",
        "step    8/18865 | train loss 10.912345 | norm 12.5000 | lr 1.00e-06 | (103.20 ms | 4961 tok/s)",
        "step 9: train loss 5.356082 (took 1512.12 ms)",
    )
    assert cuda.step == 7
    assert cuda.total_steps == 18865
    assert cuda.metrics == {
        "loss": 11.009463, "grad_norm": 15.4225, "learning_rate": 8.57e-07,
        "step_time_ms": 1234.56, "mfu": 50.1, "tokens_per_second": 424312.0,
    }  # fmt: skip
    assert validated == Eval(step=7, metrics={"loss": 10.5})
    assert (python.step, python.metrics["grad_norm"], python.metrics["tokens_per_second"]) == (8, 12.5, 4961.0)
    assert (plain.step, plain.metrics) == (9, {"loss": 5.356082, "step_time_ms": 1512.12})


def test_lightning_bars_of_tqdm_and_of_rich():
    """One step for each place at which the bar stops; what was validated is told once, though the bar goes on showing it."""
    found = read(
        "Epoch 0:   0%|          | 0/64 [00:00<?, ?it/s]",
        "\x1b[2KEpoch 0:  50%|#####     | 32/64 [00:01<00:01, 29.10it/s, v_num=0, train_loss_step=0.500]",
        "Epoch 0:  50%|#####     | 32/64 [00:01<00:01, 29.10it/s, v_num=0, train_loss_step=0.500]",
        "Validation DataLoader 0:  50%|#####     | 5/10 [00:00<00:00, 90.1it/s]",
        "Epoch 0: 100%|##########| 64/64 [00:02<00:00, 29.10it/s, v_num=0, train_loss_step=nan, val_loss=0.700, train_loss_epoch=0.600]",
        "Epoch 1/9 ━━━━━━━━━━ 32/64 0:00:02 • 0:00:01 29.1it/s v_num: 0.000 train_loss_step: 0.250 val_loss: 0.700",
    )
    assert [(event.kind, event.step) for event in found] == [("step", 32), ("step", 64), ("eval", 64), ("step", 96)]
    assert found[0].metrics == {"loss": 0.5}
    assert found[0].epoch == 0.5
    assert math.isnan(found[1].metrics["loss"])
    assert found[2].metrics == {"loss": 0.7}
    assert found[3].metrics == {"loss": 0.25}


def test_a_pattern_of_ones_own():
    """Its groups name fields and metrics; it may stand before or beside the built-in ones."""
    mine = own_pattern(
        "mine", r"it (?P<step>\d+)/(?P<total_steps>\d+).*loss=(?P<loss>\S+)(?: val=(?P<val_loss>\S+))?(?: tok=(?P<tokens>\S+))?"
    )
    step, evaluated, other = read(
        "12:00:01 INFO it 5/100 loss=0.25 val=inf tok=1,024", "it 6/100 loss=oops", "iter 7: loss 1.0, time 1ms", patterns=(mine, *BUILT_IN)
    )
    assert step == Step(step=5, total_steps=100, tokens=1024, metrics={"loss": 0.25})
    assert evaluated == Eval(step=5, metrics={"loss": math.inf})
    assert other.step == 7


@pytest.mark.parametrize(("expression", "said"), [("(", "no regular expression"), (r"loss=(\d+)", "no named group")])
def test_a_pattern_that_can_not_work_is_refused_by_name(expression, said):
    """With an example of one that can."""
    with pytest.raises(ConfigError, match=said) as caught:
        own_pattern("mine", expression)
    assert "'mine'" in caught.value.problem
    assert "(?P<step>" in caught.value.hint


def test_an_unknown_name_of_a_built_in_pattern_is_refused_with_those_that_there_are():
    """By `chosen`."""
    assert [pattern.name for pattern in chosen(["llm.c", "nanogpt"])] == ["llm.c", "nanogpt"]
    with pytest.raises(ConfigError, match="No pattern is called 'keras'") as caught:
        chosen(["keras"])
    assert "lightning" in caught.value.hint


LINES = (
    "{'loss': 1.0, 'epoch': 0.5}\nnoise\riter 3: loss 2.0, time 1ms\nstep 4/9 | loss 1.5\n"
    "Epoch 0:  50%|# | 5/10 [00:01<00:01, 2it/s, v_num=0, loss=0.5]\nval loss 3.0\n"
)


@given(st.lists(st.integers(0, len(LINES)), max_size=6))
@settings(max_examples=60, deadline=None)
def test_pieces_of_any_size_give_the_same_events_also_across_a_restart(cuts):
    """Text comes from a pipe as it comes; the memory survives as plain values."""
    whole = LineReader().feed(LINES)
    assert len(whole) == 5
    reader, found = LineReader(), []
    places = sorted({0, *cuts, len(LINES)})
    for start, end in pairwise(places):
        found += reader.feed(LINES[start:end])
        if reader._rest == "":
            memory = msgspec.convert(msgspec.to_builtins(reader.memory), Memory)
            reader = LineReader(memory=memory)
    assert found == whole


@given(st.text(alphabet="{}'loss:eval_ 0123456789.,eE+-nanif|%/[]Epochstrainvalmf\r\n\x1b", max_size=300))
@settings(max_examples=300, deadline=None)
def test_no_output_breaks_the_reader(text):
    """Whatever a training prints."""
    reader = LineReader()
    for event in [*reader.feed(text), *reader.end()]:
        msgspec.msgpack.encode(event)


def test_a_last_line_without_an_end_and_a_line_without_end_are_bounded():
    """The rest is kept only as far as it would be looked at."""
    reader = LineReader()
    assert reader.feed("x" * 1_000_000) == []
    assert len(reader._rest) == 10_000
    assert reader.feed("\niter 3: loss 2.0, time 1ms") == []
    assert [event.step for event in reader.end()] == [3]
    assert reader.stats().events == 1
