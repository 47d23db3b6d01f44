"""A lock that serves its waiters in the order in which they came."""

import threading
from collections import deque
from types import TracebackType


class TurnLock:
    """Shares a model between threads that each take it again at once: with a plain lock one of them could starve."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiters: deque[object] = deque()

    def __enter__(self) -> None:
        turn = object()
        with self._changed:
            self._waiters.append(turn)
            try:
                self._changed.wait_for(lambda: self._waiters[0] is turn)
            except BaseException:
                self._waiters.remove(turn)
                self._changed.notify_all()
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._waiters.popleft()
            self._changed.notify_all()
