"""A training with a planted leak: ``python leaky.py RUN MB_A_STEP SECONDS_A_STEP SEED LIMIT OUT STEPS plain|torch``.

LIMIT is the directory of a control group to enter, or ``rlimit:BYTES`` more address space than it begins with. It publishes steps, obeys
save and free_caches, and ends when it is killed, refused memory, or after STEPS. Without a leak it evaluates and saves now and then.
``torch`` trains a small network by AdamW, keeps tensors, evaluates it and saves its weights; ``plain`` only holds memory as one would.
"""

import gc
import io
import os
import random
import resource
import sys
import time
from pathlib import Path

import trainbus

EVALUATIONS, SAVES = 8, 4


class Plain:
    """Memory as a training needs it, without the training."""

    def __init__(self, seed):
        self.chance, self.kept = random.Random(seed), []

    def step(self, leak):
        """What a step needs and gives back, and what it keeps; gives the loss."""
        buffer = bytearray(os.urandom(1 << 20) * self.chance.randrange(1, 6))
        self.kept.append(bytearray(b"x") * int(leak * 1e6))
        return 1.0 + len(buffer) * 0

    def evaluate(self):
        """Half a second with four times the memory of a step."""
        outputs = [bytearray(b"x") * (8 << 20) for _ in range(8) if time.sleep(0.06) is None]
        return float(len(outputs))

    def weights(self):
        """What a checkpoint holds."""
        return os.urandom(5 << 20)


class Torch:
    """A real training of a small network."""

    def __init__(self, seed):
        import torch

        torch.set_num_threads(1)
        torch.manual_seed(seed)
        self.torch, self.chance, self.kept = torch, random.Random(seed), []
        layers = [torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU(), torch.nn.Linear(512, 10)]
        self.model = torch.nn.Sequential(*layers)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3)

    def loss(self, examples):
        """On examples of which the answer can be learned."""
        inputs = self.torch.randn(examples, 256)
        return self.torch.nn.functional.cross_entropy(self.model(inputs), inputs[:, :10].argmax(1))

    def step(self, leak):
        """Forward, backward, update; keeps a tensor."""
        loss = self.loss(self.chance.choice((32, 64, 128)))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if leak:
            self.kept.append(self.torch.ones(int(leak * 1e6 / 4)))
        return loss.item()

    def evaluate(self):
        """Outputs of many examples at once."""
        with self.torch.no_grad():
            return sum(self.loss(8_000).item() for _ in range(4)) / 4

    def weights(self):
        """The model and its optimizer's state."""
        buffer = io.BytesIO()
        self.torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, buffer)
        return buffer.getvalue()


def save(run, step, out, training):
    """Half a second of writing, under another name until it is whole."""
    weights = training.weights()
    whole, part = out / f"checkpoint-{step}", out / f"part-{step}"
    run.checkpoint(whole, step=step, state="writing")
    part.mkdir(parents=True)
    for number in range(5):
        (part / f"shard-{number}").write_bytes(weights[number::5])
        time.sleep(0.1)
    (part / "complete").write_text("yes")
    part.rename(whole)
    run.checkpoint(whole, step=step)


def evaluate(run, step, training):
    """A phase of its own."""
    with run.phase("evaluate"):
        loss = training.evaluate()
    run.eval(step, loss=loss)


def limit_address_space(more):
    """More than now, because threads reserve far more than they use."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resource.setrlimit(resource.RLIMIT_AS, (int(fields["VmSize"].split()[0]) * 1024 + more,) * 2)


def main():
    """Train."""
    name, leak, seconds, seed, limit, out, steps, kind = sys.argv[1:]
    leak, seconds, steps, out = float(leak), float(seconds), int(steps), Path(out)
    if not limit.startswith("rlimit:"):
        (Path(limit) / "cgroup.procs").write_text(str(os.getpid()))
    training = (Torch if kind == "torch" else Plain)(int(seed))
    pause = random.Random(int(seed))
    with trainbus.init("leaky", run=name) as run, run.phase("train"):
        if limit.startswith("rlimit:"):
            limit_address_space(int(limit.partition(":")[2]))
        for step in range(1, steps + 1):
            began = time.monotonic()
            loss = training.step(leak)
            time.sleep(max(0.0, began + seconds * pause.uniform(0.8, 1.2) - time.monotonic()))
            run.step(step, total_steps=steps, loss=loss)
            if not leak and step % (steps // EVALUATIONS) == 0:
                evaluate(run, step, training)
            if not leak and step % (steps // SAVES) == 0:
                save(run, step, out, training)
            for command in run.commands():
                if command.verb == "save":
                    save(run, step, out, training)
                elif command.verb == "free_caches":
                    gc.collect()
                run.result(command)


if __name__ == "__main__":
    main()
