"""A lease for coroutines: the context's lease may block, so it is taken and given back in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager

from trainbus.hookspecs import Context


@asynccontextmanager
async def leased(context: Context, resource: str, *, reason: str) -> AsyncIterator[None]:
    """Hold a shared lease while the block runs. It is given back in any case, also when the task is cancelled meanwhile.

    Raises:
        LeaseRefusedError: The checkpoint is being deleted.
    """
    # One thread for both ends: what the lease holds inside (a connection) need not be safe to use from two.
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="lease")
    lease = context.lease(resource, reason=reason)
    taking = thread.submit(lease.__enter__)
    try:
        await asyncio.wrap_future(taking)
        yield
    finally:
        # Submitted behind the taking, so it finds the lease taken or refused, also when this task was cancelled in between.
        giving = thread.submit(_give_back, taking, lease)
        thread.shutdown(wait=False)
        await asyncio.shield(asyncio.wrap_future(giving))


def _give_back(taking: Future[None], lease: AbstractContextManager[None]) -> None:
    if not taking.cancelled() and taking.exception() is None:
        lease.__exit__(None, None, None)
