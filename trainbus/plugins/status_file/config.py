"""``[plugin.status_file]``: where the file is, and whose status it holds."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct


class StatusFileConfig(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Settings of the status file."""

    path: Annotated[str, Meta(description="The file; empty: `plugins/status_file/training_status.json` in TRAINBUS_HOME.")] = ""
    run: Annotated[str, Meta(description="Pattern of the runs whose newest is shown (`*`, `?`).")] = "*"
    interval: Annotated[float, Meta(ge=0.1, le=3600, description="Seconds between two writings, when something has changed.")] = 2.0
