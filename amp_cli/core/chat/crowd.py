"""Keeps so many requests under way at once; what has arrived is handed over before anything else is sent."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from amp_cli.errors import AmpError

Request = TypeVar("Request")
Result = TypeVar("Result")


async def run_together(
    requests: Sequence[Request],
    *,
    start: Callable[[Request], Coroutine[Any, Any, Result]],
    settle: Callable[[Request, asyncio.Task[Result]], AmpError | None],
    limit: int,
    stop: asyncio.Event,
    blocked: Callable[[Request, int], AmpError | None] = lambda request, left: None,
) -> None:
    """Work on all requests, no more than `limit` at once. On Ctrl-C what has arrived is kept and the rest cancelled.

    Args:
        start: called when a request's turn comes; returns the work.
        settle: takes what came of it; returns what ends the whole run, or None.
        stop: set when the run ends early: what is on its way may arrive, but is not to be tried again.
        blocked: says why a request may not be sent while others are on their way (of `left` that are not sent yet);
            it ends the run when nothing is on its way any more.
    """
    waiting = deque(requests)
    running: dict[asyncio.Task[Result], Request] = {}
    end: AmpError | None = None

    def hand_over(done: Iterable[asyncio.Task[Result]]) -> None:
        nonlocal end
        for task in done:
            end = settle(running.pop(task), task) or end

    def send() -> AmpError | None:
        while waiting and len(running) < limit:
            reason = blocked(waiting[0], len(waiting))
            if reason is not None:
                return None if running else reason
            request = waiting.popleft()
            running[asyncio.create_task(start(request))] = request
        return None

    try:
        while running or (waiting and end is None):
            end = end or send()
            if end is not None:
                stop.set()
            if running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                hand_over(done)
    except asyncio.CancelledError:  # Ctrl-C
        hand_over([task for task in running if task.done()])
        raise
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if end is not None:
        raise end
