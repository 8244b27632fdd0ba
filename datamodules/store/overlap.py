"""Reading ahead of the model and writing behind it, in a thread each: the bytes are those of doing all in turn.

    decode, resample ──queue──► the model ──queue──► write, compress, rename

Both queues are short, so that memory is bounded; what fails in a thread is raised, as it is, in the one that computes.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class _Item(Generic[T]):
    def __init__(self, value: T) -> None:
        self.value = value


class ReadAhead(Generic[T]):
    """The items of `source` in their order, made while the earlier ones are used; at most `depth` wait."""

    def __init__(self, source: Iterable[T], depth: int = 2) -> None:
        self.source, self.depth = source, depth

    def __iter__(self) -> Iterator[T]:
        waiting: queue.Queue[_Item[T] | BaseException | None] = queue.Queue(self.depth)  # None: the end
        abandoned = threading.Event()  # nobody takes items any more

        def put(item: _Item[T] | BaseException | None) -> bool:
            while not abandoned.is_set():
                try:
                    waiting.put(item, timeout=0.1)
                    return True
                except queue.Full:
                    continue
            return False

        def work() -> None:
            try:
                for value in self.source:
                    if not put(_Item(value)):
                        return
                put(None)
            except BaseException as error:
                put(error)

        thread = threading.Thread(target=work, name="read-ahead", daemon=True)
        thread.start()
        try:
            while (item := waiting.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                yield item.value
        finally:
            abandoned.set()
            thread.join()


class WriteBehind:
    """Calls functions in a thread, one after another in their order; at most `depth` wait, and the next `call` waits
    too.
    """

    def __init__(self, depth: int = 2) -> None:
        self.depth = depth
        self.pool = ThreadPoolExecutor(1, "write-behind")
        self.waiting: deque[Future[None]] = deque()

    def call(self, function: Callable[[], None]) -> None:
        self.check()
        while len(self.waiting) >= self.depth:
            self.waiting.popleft().result()
        self.waiting.append(self.pool.submit(function))

    def check(self) -> None:
        """Raises what a call raised."""
        while self.waiting and self.waiting[0].done():
            self.waiting.popleft().result()

    def close(self) -> None:
        """Waits for all calls; raises what the first of them raised."""
        self.pool.shutdown()
        while self.waiting:
            self.waiting.popleft().result()
