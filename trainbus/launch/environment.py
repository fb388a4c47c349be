"""What a supervised command finds in its environment, and how its run is called when nobody says it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

from trainbus.bus.joining import FOLDER_VARIABLE, NAME_VARIABLE, RUN_VARIABLE, SUPERVISOR_VARIABLE

SITE = Path(str(files("trainbus.inject"))) / "site"
"""The folder whose sitecustomize.py every Python below us runs when it starts."""
LAUNCHERS = frozenset({"torchrun", "accelerate", "deepspeed", "python", "python3", "uv", "srun", "mpirun", "env", "sh", "bash"})


def supervised(environment: Mapping[str, str], *, run: str, name: str, root: Path, folder: Path, inject: bool) -> dict[str, str]:
    """The command's environment: ours, where to find the bus and the supervisor, and (with ``inject``) our sitecustomize."""
    made = {
        **environment,
        "TRAINBUS_HOME": str(root.absolute()),
        RUN_VARIABLE: run,
        NAME_VARIABLE: name,
        FOLDER_VARIABLE: str(folder),
        SUPERVISOR_VARIABLE: str(os.getpid()),
    }
    paths = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path and path != str(SITE)]
    if inject:
        paths.insert(0, str(SITE))
    if paths:
        made["PYTHONPATH"] = os.pathsep.join(paths)
    else:
        made.pop("PYTHONPATH", None)
    return made


def default_name(command: Sequence[str]) -> str:
    """A run's name from its command line: the script, the module, or the program with its subcommand.

    ``torchrun --nproc-per-node 2 train.py`` is ``train``, ``python -m pkg.train`` is ``train``, ``trl sft --model x`` is ``trl-sft``.
    """
    script = next((word for word in command if word.endswith((".py", ".sh"))), None)
    if script is not None:
        return Path(script).stem
    for number, word in enumerate(command[:-1]):
        if word in ("-m", "--module"):
            return command[number + 1].rpartition(".")[2]
    program = Path(command[0]).name
    verb = next((word for word in command[1:2] if not word.startswith("-") and word.replace("-", "").replace("_", "").isalnum()), "")
    return f"{program}-{verb}" if verb and program not in LAUNCHERS else program
