"""Steps and evaluations from what a command prints, for trainings that nothing else makes visible."""

from __future__ import annotations

import codecs
import logging
from collections.abc import Sequence

from trainbus.bus.events import Event
from trainbus.sources.patterns import LineReader, Memory, Pattern

log = logging.getLogger(__name__)


class OutputReader:
    """Reads both streams of one command: bars are mostly on one and numbers on the other, so they share what they remember.

    Args:
        patterns: Tried in order.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._patterns = patterns
        self._memory = Memory()
        self._readers: dict[int, LineReader] = {}
        self._decoders: dict[int, codecs.IncrementalDecoder] = {}
        self._broken = False

    def feed(self, stream: int, data: bytes) -> list[Event]:
        """The events of the lines that are whole now. Never raises: a pattern that fails ends the reading, and is said in the log."""
        if self._broken:
            return []
        try:
            if stream not in self._readers:
                self._readers[stream] = LineReader(self._patterns, memory=self._memory)
                self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
            return self._readers[stream].feed(self._decoders[stream].decode(data))
        except Exception:
            self._broken = True
            log.exception("trainbus: the output can't be read by patterns any more; it is passed on as ever")
            return []
