"""What Axolotl and Unsloth do to transformers' Trainer before they train with it; nothing of it knows trainbus.

``rewritten`` (Unsloth): methods of Trainer are made anew from their source, in other globals; the trainer comes from a module that was
written to disk, stands in the place of the original, and wraps its own ``train`` in ``__init__``. ``derived`` (Axolotl): a subclass of
several mixins overrides what is called at each step and at a save, with callbacks of its own.
"""

import functools
import importlib.util
import inspect
import sys
import textwrap
import types
from pathlib import Path

import transformers
from hf_trainer import Data, Model
from transformers import Trainer, TrainerCallback, TrainingArguments

GENERATED = """
from transformers import Trainer as Original


class CompiledTrainer(Original):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.train = types.MethodType(prepared(self.__class__.train), self)
"""


def rewrite(name):
    """A method of Trainer from its source, under another name."""
    method = getattr(Trainer, name)
    source = textwrap.dedent(inspect.getsource(method)).replace(f"def {name}", f"def _rewritten_{name}", 1)
    namespace = dict(vars(transformers.trainer))
    exec(source, namespace)
    setattr(Trainer, name, namespace[f"_rewritten_{name}"])


def prepared(train):
    @functools.wraps(train)
    def wrapped(self, *args, **kwargs):
        self.model.train()
        return train(self, *args, **kwargs)

    return wrapped


def rewritten():
    rewrite("training_step")
    rewrite("_inner_training_loop")
    file = Path("compiled_cache") / "CompiledTrainer.py"
    file.parent.mkdir()
    file.write_text(GENERATED)
    found = importlib.util.spec_from_file_location("CompiledTrainer", file)
    module = importlib.util.module_from_spec(found)
    module.types, module.prepared = types, prepared
    sys.modules["CompiledTrainer"] = module
    found.loader.exec_module(module)
    transformers.Trainer = module.CompiledTrainer
    return module.CompiledTrainer


class Steps:
    def training_step(self, *args, **kwargs):
        return super().training_step(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return super().compute_loss(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)


class Saves:
    def _save_checkpoint(self, model, trial, **kwargs):
        Path(self.args.output_dir).mkdir(exist_ok=True)
        return super()._save_checkpoint(model, trial, **kwargs)

    def log(self, logs, *args, **kwargs):
        return super().log({**logs, "memory/max_active": 1.0}, *args, **kwargs)


class Told(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        return control


def derived():
    return type("DerivedTrainer", (Steps, Saves, Trainer), {})


if __name__ == "__main__":
    trainer_class = {"rewritten": rewritten, "derived": derived}[sys.argv[1]]()
    arguments = TrainingArguments(
        output_dir="out", max_steps=6, per_device_train_batch_size=2, gradient_accumulation_steps=2, learning_rate=0.05, save_steps=3,
        logging_steps=1, use_cpu=True, disable_tqdm=True, report_to="none",
    )  # fmt: skip
    trainer = trainer_class(model=Model(), args=arguments, train_dataset=Data(), callbacks=[Told()])
    trainer.train(resume_from_checkpoint=None)
    print("trained", trainer.state.global_step, flush=True)
