"""An ordinary Lightning script; it knows nothing of trainbus."""

import importlib
import os

import torch

pl = importlib.import_module(os.environ.get("PACKAGE", "lightning.pytorch"))

torch.manual_seed(0)
torch.set_num_threads(1)


class Model(pl.LightningModule):
    def __init__(self, rate=0.05):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, index):
        loss = torch.nn.functional.mse_loss(self.layer(batch).sum(-1), batch.sum(-1))
        if self.global_step == int(os.environ.get("NAN_AT", "-1")):
            loss = loss * float("nan")
        print(f"raw {float(loss)!r}", flush=True)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", torch.nn.functional.mse_loss(self.layer(batch).sum(-1), batch.sum(-1)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.hparams.rate)


if __name__ == "__main__":
    data = torch.utils.data.DataLoader(torch.randn(24, 4), batch_size=4)
    trainer = pl.Trainer(
        max_steps=int(os.environ.get("STEPS", "6")), accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=".",
    )  # fmt: skip
    trainer.fit(Model(), data, data)
    print("the script is done", flush=True)
