"""What decides, beside the file itself, on the examples that are read from it."""

from __future__ import annotations

from msgspec import Struct

from trainbus.trainer_node.config import TrainerConfig
from trainbus.trainer_node.formats import Schema
from trainbus.trainer_node.profile import PLAIN, Profile


class Reading(Struct, frozen=True, kw_only=True):
    """How a data set is read.

    Args:
        split: Of a hub data set.
        columns: A format's key → the rows' own name for it.
        schema: The format that all rows must have.
        profile: Dresses what was read.
    """

    split: str = "train"
    columns: dict[str, str] = {}
    schema: Schema = "auto"
    profile: Profile = PLAIN

    @property
    def parts(self) -> tuple[object, ...]:
        """What of it decides on examples, to be digested; empty parts of today's defaults add nothing to digests of earlier versions."""
        more = (self.schema, self.profile) if (self.schema, self.profile) != ("auto", PLAIN) else ()
        return (sorted(self.columns.items()), *more)


def reading_of(config: TrainerConfig) -> Reading:
    """As a job is told."""
    return Reading(split=config.data_split, columns=config.columns, schema=config.schema, profile=config.profile)
