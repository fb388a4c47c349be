"""Leases: promises that a checkpoint is being read (shared) or about to be deleted (exclusive).

What is granted is in the journal; when it expires is kept here, by the monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import structs

from trainbus.bus import wire
from trainbus.bus.broker.records import LeaseRecord, Table
from trainbus.errors import RefusedError

MAX_TTL = 86_400.0
"""Seconds. A holder that needs longer renews."""


class Leases:
    """Grants, renews and expires leases.

    Args:
        table: The journal's leases. Each gets its whole ttl from ``now`` on: its holder could not renew while no broker ran.
        new_id: Makes ids.
        now: Monotonic seconds.
    """

    def __init__(self, table: Table[str, LeaseRecord], new_id: Callable[[], str], now: float) -> None:
        self._table = table
        self._new_id = new_id
        self._expires = {record.id: now + record.ttl for record in table.values()}

    def take(self, request: wire.TakeLease, now: float) -> wire.Lease:
        """Grant a lease.

        Raises:
            RefusedError: ``conflict``: somebody holds the opposite side; ``invalid``: a ttl out of range.
        """
        _check_ttl(request.ttl)
        for other in self._table.values():
            if other.resource == request.resource and "exclusive" in (other.mode, request.mode) and self._left(other.id, now) > 0:
                why = f" ({other.reason})" if other.reason else ""
                raise RefusedError(
                    f"{request.resource} is held by {other.holder}: {other.mode} lease{why}, {self._left(other.id, now):.0f} s left.",
                    hint="Wait until it is released or expires; `trainbus status` lists the leases.",
                    code="conflict",
                    holder=other.holder,
                )
        record = LeaseRecord(
            id=self._new_id(),
            resource=request.resource,
            holder=request.holder,
            mode=request.mode,
            reason=request.reason,
            ttl=request.ttl,
        )
        self._table.put(record)
        self._expires[record.id] = now + record.ttl
        return self._answer(record, now)

    def renew(self, request: wire.RenewLease, now: float) -> wire.Lease:
        """Let a lease run for another ``ttl``.

        Raises:
            RefusedError: ``unknown``: it has expired, and somebody else may hold the resource now.
        """
        _check_ttl(request.ttl)
        record = self._table.get(request.id)
        if record is None or self._left(record.id, now) <= 0:
            problem = f"Lease {request.id} has expired or was never granted."
            raise RefusedError(problem, hint="Take a new one, and renew it before its ttl is over.", code="unknown")
        if record.ttl != request.ttl:
            record = structs.replace(record, ttl=request.ttl)
            self._table.put(record)
        self._expires[record.id] = now + request.ttl
        return self._answer(record, now)

    def release(self, lease: str) -> None:
        """End a lease; no error when it is over already."""
        if self._table.get(lease) is not None:
            self._table.drop(lease)

    def expire(self, now: float) -> None:
        """Drop what has expired."""
        for record in self._table.values():
            if self._left(record.id, now) <= 0:
                self._table.drop(record.id)

    def expired(self, now: float) -> bool:
        """Whether `expire` would drop anything."""
        return any(self._left(record.id, now) <= 0 for record in self._table.values())

    def resumed(self, now: float) -> None:
        """The broker itself was stopped for a while: renewals may lie unread, so each lease gets its whole ttl again."""
        for record in self._table.values():
            self._expires[record.id] = now + record.ttl

    def settled(self) -> None:
        """A transaction ended: forget the expiry of leases that are gone."""
        alive = {record.id for record in self._table.values()}
        self._expires = {lease: expires for lease, expires in self._expires.items() if lease in alive}

    def listing(self, now: float) -> list[wire.Lease]:
        """All leases that hold."""
        return [self._answer(record, now) for record in self._table.values() if self._left(record.id, now) > 0]

    def _left(self, lease: str, now: float) -> float:
        return self._expires.get(lease, now) - now

    def _answer(self, record: LeaseRecord, now: float) -> wire.Lease:
        return wire.Lease(
            id=record.id,
            resource=record.resource,
            holder=record.holder,
            mode=record.mode,
            reason=record.reason,
            expires_in=self._left(record.id, now),
        )


def _check_ttl(ttl: float) -> None:
    if not (math.isfinite(ttl) and 0 < ttl <= MAX_TTL):
        raise RefusedError(f"A lease's ttl is {ttl} s.", hint=f"It must be above 0 and at most {MAX_TTL:.0f} s.", code="invalid")
