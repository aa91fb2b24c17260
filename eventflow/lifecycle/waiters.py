"""`Waiters`: those who wait for the same thing, woken one by one or together."""

from __future__ import annotations

import asyncio

__all__ = ("Waiters",)


class Waiters:
    """Futures of those who wait, in turn."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: dict[asyncio.Future[None], None] = {}

    def __bool__(self) -> bool:
        """Whether anybody waits."""
        return bool(self._futures)

    async def wait(self, until: float | None = None) -> None:
        """Wait to be woken, or until loop time ``until``."""
        future = asyncio.get_running_loop().create_future()
        self._futures[future] = None
        try:
            if until is None:
                await future
            else:
                async with asyncio.timeout_at(until):
                    await future
        except TimeoutError:
            if future.done() and not future.cancelled():
                self.wake()
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self.wake()  # it was our turn: pass it on
            raise
        finally:
            self._futures.pop(future, None)

    def wake(self) -> None:
        """Wake the first one."""
        for future in self._futures:
            if _woken(future):
                del self._futures[future]
                return

    def wake_all(self) -> None:
        """Wake all of them."""
        futures, self._futures = self._futures, {}
        for future in futures:
            _woken(future)


def _woken(future: asyncio.Future[None]) -> bool:
    if future.done() or future.get_loop().is_closed():
        return False
    future.set_result(None)
    return True
