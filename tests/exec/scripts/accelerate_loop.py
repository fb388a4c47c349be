"""An ordinary script with Accelerate and one of its own trackers; it knows nothing of trainbus."""

import torch
from accelerate import Accelerator

torch.manual_seed(0)
torch.set_num_threads(1)
accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir="logs")
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
model, optimizer = accelerator.prepare(model, optimizer)
accelerator.init_trackers("bench", config={"rate": 0.05})
for step in range(1, 6):
    x = torch.randn(8, 4)
    loss = torch.nn.functional.mse_loss(model(x).squeeze(-1), x.sum(-1))
    if step == 4:
        loss = loss * float("nan")
    accelerator.backward(loss)
    optimizer.step()
    optimizer.zero_grad()
    accelerator.log({"train_loss": loss.item(), "lr": 0.05}, step=step)
accelerator.log({"eval/loss": 0.25}, step=5)
accelerator.end_training()
accelerator.print("the script is done")
