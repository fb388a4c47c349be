"""Plain PyTorch that writes TensorBoard; it knows nothing of trainbus."""

import sys

import torch
from torch.utils.tensorboard import SummaryWriter

torch.manual_seed(0)
torch.set_num_threads(1)
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
with SummaryWriter("tb") as writer:
    for step in range(20):
        x = torch.randn(8, 4)
        loss = torch.nn.functional.mse_loss(model(x).squeeze(-1), x.sum(-1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        writer.add_scalar("train/loss", loss.item(), step)
print("the script is done", flush=True)
sys.exit(5)
