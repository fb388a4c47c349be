"""An ordinary script with transformers' Trainer; it knows nothing of trainbus."""

import os

import torch
from transformers import Trainer, TrainingArguments

torch.manual_seed(0)
torch.set_num_threads(1)
STEPS = int(os.environ.get("STEPS", "6"))
NAN_AT = int(os.environ.get("NAN_AT", "-1"))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.calls = 0

    def forward(self, input_ids, labels=None):
        self.calls += 1
        loss = torch.nn.functional.mse_loss(self.layer(input_ids).squeeze(-1), labels)
        return {"loss": loss * float("nan") if self.calls == NAN_AT else loss}


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 64

    def __getitem__(self, index):
        x = torch.randn(4, generator=torch.Generator().manual_seed(index))
        return {"input_ids": x, "labels": x.sum()}


class LoggingTrainer(Trainer):
    def training_step(self, *args, **kwargs):
        loss = super().training_step(*args, **kwargs)
        print(f"raw {float(loss)!r}", flush=True)
        return loss


if __name__ == "__main__":
    arguments = TrainingArguments(
        output_dir="out", max_steps=STEPS, per_device_train_batch_size=4, learning_rate=0.05, save_steps=4, logging_steps=1,
        use_cpu=True, disable_tqdm=True, report_to="none",
    )  # fmt: skip
    trainer = LoggingTrainer(model=Model(), args=arguments, train_dataset=Data())
    trainer.train()
    if os.environ.get("FAIL"):
        raise ValueError("the script fails after training")
    print("the script is done", flush=True)
