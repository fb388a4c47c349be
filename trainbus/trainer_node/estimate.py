"""Memory and time of a training before it starts: rough, from the model's shape, and better where this machine has trained before."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from msgspec import Struct

from trainbus.trainer_node.config import Method, TrainerConfig
from trainbus.trainer_node.records import RunRecord
from trainbus.trainer_node.shape import Shape

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES = (4 + 0.127) / 8
"""Of a weight in 4 bits with double quantisation of its scales (Dettmers et al. 2023, QLoRA, section 3)."""
TRAINED_BYTES = 4
"""Of a weight that is trained, of its gradient, and of each of Adam's two moments: kept in float32 whatever is computed in."""
CONTEXT = 800 << 20
"""What CUDA and its libraries take before anything is computed."""
SLACK = 1.1
"""What the allocator can't use, being in pieces."""

UTILISATION = 0.35
"""Share of a device's peak that a training of this kind reaches; well tuned large ones reach 0.5 (Chowdhery et al. 2022, PaLM, table 3)."""
PEAK_TERAFLOPS: tuple[tuple[str, float], ...] = (
    ("B200", 2250), ("H200", 989), ("H100", 989), ("A100", 312), ("L40S", 362), ("L40", 181), ("L4", 121), ("A40", 150), ("A10", 125),
    ("RTX 6000 Ada", 182), ("RTX A6000", 155), ("RTX 5090", 209), ("RTX 4090", 165), ("RTX 4080", 97), ("RTX 3090", 71), ("V100", 125),
    ("T4", 65),
)  # fmt: skip
"""Dense matrix products in 16 bits with sums in 32, as the makers' data sheets say; the first name that is in a device's name holds."""

BATCH_SHARE = 21 / 24
"""Of a device's memory: what a batch may fill."""
BATCH_FACTOR = 4
"""At one time a batch grows by so much at most: memory does not grow quite in proportion."""


class Memory(Struct, frozen=True, kw_only=True):
    """Bytes on one device while training, by what takes them."""

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    other: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.adapters + self.gradients + self.optimizer + self.activations + self.other


class Work(Struct, frozen=True, kw_only=True):
    """What is computed: how, in which type, with how many examples of how many tokens at once."""

    method: Method
    dtype: str
    batch: int
    length: int
    rank: int = 16
    checkpointing: bool = False


def work_of(config: TrainerConfig, *, accelerator: bool) -> Work:
    """The work that a configuration means on a machine with or without an accelerator."""
    kept = config.gradient_checkpointing
    dtype = str(config.dtype)
    return Work(
        method=config.method,
        dtype=dtype if dtype in BYTES else "bfloat16" if accelerator else "float32",
        batch=config.batch_size,
        length=config.max_length,
        rank=config.lora_r,
        checkpointing=accelerator if kept == "auto" else bool(kept),
    )


def memory(shape: Shape, work: Work, *, accelerator: bool = True) -> Memory:
    """What a training step holds at its highest, when every example is as long as it may be.

    Activations follow Korthikanti et al. 2022 (Reducing Activation Recomputation in Large Transformer Models, section 4.1), counted anew
    for a block of today: for each token the inputs of both norms in float32 and what they give (16 h), the same for the norms of queries
    and keys, queries, keys and values before and after their rotation and what attention gives (attention itself keeps nothing: it is
    computed again), and the four tensors of a gated MLP. Adapters keep copies of their inputs, their frozen base keeps none: that is
    about even. With checkpointing each block keeps its input, and one block is computed again at a time. The loss has the logits, their
    logarithms and two gradients in float32: at 150,000 words the greatest part. Mixed precision keeps a copy of trained weights in 16 bits.
    """
    size = BYTES[work.dtype]
    full = work.method == "full"
    trained = shape.parameters if full else shape.adapters(work.rank)
    if full:
        weights = (TRAINED_BYTES + (size if size < TRAINED_BYTES else 0)) * shape.parameters
    elif work.method == "qlora":  # what is not in 4 bits, PEFT casts to float32
        weights = round(NF4_BYTES * shape.linear) + 4 * shape.embedding
    else:
        weights = size * shape.parameters
    tokens = work.batch * work.length
    attention = shape.queries + shape.keys
    block = 16 * shape.hidden + 8 * attention + size * 4 * (attention + shape.intermediate)
    blocks = size * shape.hidden * shape.layers + block if work.checkpointing else block * shape.layers
    activations = tokens * (blocks + (size + 12) * shape.vocabulary)
    named = {
        "weights": weights,
        "adapters": 0 if full else TRAINED_BYTES * trained,
        "gradients": TRAINED_BYTES * trained,
        "optimizer": 2 * TRAINED_BYTES * trained,
        "activations": activations,
    }
    other = round((SLACK - 1) * sum(named.values())) + (CONTEXT if accelerator else 0)
    return Memory(**named, other=other)


def tokens_per_second(shape: Shape, work: Work, device: str, records: Sequence[RunRecord], model: str) -> tuple[float, str] | None:
    """The speed, and what it is known from; None when nothing tells it.

    What this machine did with the same model and method counts more than arithmetic. That is 2 operations a weight and token forwards,
    2 backwards for what is passed on, 2 more for gradients of weights (Kaplan et al. 2020, Scaling Laws, section 2.1): 6 where all are
    trained, 4 where only adapters are, and 2 more with checkpointing.
    """
    known = [one.tokens_per_second for one in records if one.success and (one.model, one.method) == (model, work.method)]
    if speeds := [speed for speed in known if speed > 0]:
        return statistics.median(speeds), f"{len(speeds)} trainings on this machine"
    peak = next((value for name, value in PEAK_TERAFLOPS if name.lower() in device.lower()), None)
    if peak is None:
        return None
    operations = (6 if work.method == "full" else 4) + (2 if work.checkpointing else 0)
    return UTILISATION * peak * 1e12 / (operations * shape.parameters), f"{UTILISATION:.0%} of the {peak:,.0f} TFLOP/s of {device}"


def advise_batch(batch: int, peak: int, total: int) -> int:
    """The batch size that would fill a device of ``total`` bytes as far as is wise, after one of ``batch`` has had ``peak``.

    batch x 21/24 of the device / peak, and at most four times the batch; never below 1.
    """
    if peak <= 0:
        return batch
    return max(1, min(BATCH_FACTOR * batch, int(batch * BATCH_SHARE * total / peak)))


def largest_batch(shape: Shape, work: Work, total: int, *, accelerator: bool = True) -> int:
    """The largest batch that is thought to fit into ``BATCH_SHARE`` of a device; 0 when not even one example does."""

    def fits(batch: int) -> bool:
        tried = Work(
            method=work.method, dtype=work.dtype, batch=batch, length=work.length, rank=work.rank, checkpointing=work.checkpointing
        )
        return memory(shape, tried, accelerator=accelerator).total <= BATCH_SHARE * total

    low, high = 0, 1
    while high <= 4096 and fits(high):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
