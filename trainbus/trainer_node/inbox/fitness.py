"""What a configuration can't say when it is for an inbox."""

from __future__ import annotations

from trainbus.errors import ConfigError
from trainbus.trainer_node.config import ENDLESS, TrainerConfig
from trainbus.trainer_node.ranks import asked_processes


def require_endless(config: TrainerConfig) -> None:
    """Refuse what suits a training with an end only.

    Raises:
        ConfigError: It names the setting.
    """
    if asked_processes() > 1:
        raise ConfigError(
            f"{asked_processes()} processes were started, and one daemon watches an inbox.",
            hint="Start it without torchrun; several processes train on one file: torchrun --nproc-per-node N -m trainbus train FILE",
        )
    if config.scheduler not in ENDLESS:
        raise ConfigError(
            f"scheduler = {config.scheduler!r} needs to know where the training ends, and an inbox has no end.",
            hint="Use auto; `trainbus control set decay_steps=N` lets the rate fall when you want to end.",
            key="trainer.scheduler",
            found=config.scheduler,
            allowed=", ".join(ENDLESS),
        )
    if config.max_steps is not None:
        raise ConfigError(
            "max_steps ends a training, and an inbox has no end.",
            hint="Leave it out; `trainbus control stop` ends it.",
            key="trainer.max_steps",
        )
