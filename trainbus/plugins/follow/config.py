"""``[plugin.follow]``. The descriptions are the documentation."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class FileConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """One table ``[[plugin.follow.files]]``."""

    path: Annotated[
        str,
        Meta(min_length=1, description="The log, or a pattern (`~/runs/*/log.jsonl`): each path that fits is a run of its own."),
    ]
    format: Annotated[
        Literal["auto", "jsonl", "lines", "trainer_state", "tensorboard"],
        Meta(
            description="`jsonl`: one object a line. `lines`: a training's output. `trainer_state`: transformers' file, or the folder with "
            "its checkpoints. `tensorboard`: a folder of event files. `auto`: by name and content."
        ),
    ] = "auto"
    run: Annotated[
        str, Meta(pattern=r"^[\w.@+=-]*$", max_length=200, description="Id of the run; empty: made from the path, always the same.")
    ] = ""
    patterns: Annotated[
        tuple[str, ...],
        Meta(description="Of `lines`: built-in patterns to try, of transformers, nanogpt, llm.c, lightning; empty: all."),
    ] = ()
    own: Annotated[
        dict[str, str], Meta(description="Of `lines`: patterns of your own by name, regular expressions with named groups; tried first.")
    ] = {}


class FollowConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``[plugin.follow]``."""

    files: Annotated[tuple[FileConfig, ...], Meta(description="What is watched, see below.")] = ()
    interval: Annotated[float, Meta(ge=0.05, le=3600, description="Seconds between two looks at every file.")] = 1.0
    lost_after: Annotated[
        float, Meta(ge=0, le=1e7, description="Seconds without anything new after which a run counts as lost; 0: never.")
    ] = 0.0
