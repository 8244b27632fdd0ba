"""One queue before one model: what waits and can be computed together is taken as one batch, by one thread.

    clients ──submit──► waiting ──what is of the first one's kind, after a short window──► run(batch) ──► results

A full queue refuses (QueueFull). A client that leaves makes room: a waiting job is removed, and a running one is
asked to end (`Job.has_left`). No torch here.
"""

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, Generic, TypeVar

log = logging.getLogger(__name__)
Request = TypeVar("Request")


class QueueFull(Exception):
    """As many requests wait as may."""


class Job(Generic[Request]):
    """A request on its way. result: its answer, or what was raised for it."""

    def __init__(self, kind: Hashable, request: Request, on_part: Callable[[str], None] | None = None) -> None:
        """kind: of what can be computed in one batch. on_part: called in the queue's thread with what is there so far."""
        self.kind, self.request, self.on_part = kind, request, on_part
        self.result: Future[Any] = Future()
        self.has_left, self.came = False, time.monotonic()


class BatchingQueue:
    """Runs until it is closed."""

    def __init__(
        self, run: Callable[[Sequence[Job]], None], batch_size: int, most_waiting: int, window_seconds: float
    ) -> None:
        """run: sets the result of each job of a batch, all of one kind. window_seconds: how long a job waits for others, of
        which the time that it waits for a batch before it is a part.
        """
        self.run, self.batch_size = run, batch_size
        self.most_waiting, self.window_seconds = most_waiting, window_seconds
        self.waiting: list[Job] = []
        self.running: Sequence[Job] = ()
        self.is_closed = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self.thread.start()

    def check_room(self) -> None:
        """Raises QueueFull."""
        if len(self.waiting) >= self.most_waiting:
            raise QueueFull(f"{len(self.waiting)} requests wait, as many as may; ask again in a while")

    def submit(self, job: Job) -> None:
        """Raises QueueFull."""
        with self.changed:
            self.check_room()
            if self.is_closed:
                raise QueueFull("the server ends")
            self.waiting.append(job)
            self.changed.notify_all()

    def leave(self, job: Job) -> None:
        """The client is gone, or has its answer."""
        with self.changed:
            job.has_left = True
            if job in self.waiting:
                self.waiting.remove(job)
                job.result.cancel()

    def close(self) -> None:
        """Ends the thread after the batch that it computes; what waits is cancelled."""
        with self.changed:
            self.is_closed = True
            for job in self.waiting:
                job.result.cancel()
            self.waiting.clear()
            self.changed.notify_all()
        self.thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            try:
                self.run(batch)
            except CancelledError:  # all have left
                log.debug("%d requests were left", len(batch))
            except BaseException as error:
                log.exception("a batch of %d ended with an error", len(batch))
                self._fail(batch, error)
            self._fail(batch, CancelledError())
            self.running = ()

    def _next_batch(self) -> list[Job]:
        """Empty when the queue is closed."""
        with self.changed:
            while True:
                self.changed.wait_for(lambda: self.waiting or self.is_closed)
                if self.is_closed:
                    return []
                first = self.waiting[0]
                until = first.came + self.window_seconds
                while (
                    self.waiting
                    and self.waiting[0] is first
                    and sum(job.kind == first.kind for job in self.waiting) < self.batch_size
                    and (left := until - time.monotonic()) > 0
                ):
                    self.changed.wait(left)
                if self.waiting and self.waiting[0] is first:
                    break
            batch = [job for job in self.waiting if job.kind == first.kind][: self.batch_size]
            self.waiting = [job for job in self.waiting if job not in batch]
            for job in batch:
                job.result.set_running_or_notify_cancel()
            self.running = batch
            return batch

    @staticmethod
    def _fail(batch: Sequence[Job], error: BaseException) -> None:
        for job in batch:
            if not job.result.done():
                job.result.set_exception(error)
