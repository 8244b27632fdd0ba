"""The queue: what waits becomes batches of one kind, in order; nothing is lost, and who leaves makes room."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import CancelledError, wait

import pytest

from stages.serve.batching_queue import BatchingQueue, Job, QueueFull

PATIENCE = 20.0


class Batches:
    """Doubles its requests, once it may; keeps the batches that it saw."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.may, self.began = threading.Event(), threading.Event()

    def __call__(self, jobs: Sequence[Job[int]]) -> None:
        self.seen.append([job.request for job in jobs])
        self.began.set()
        assert self.may.wait(PATIENCE)
        for job in jobs:
            if job.request < 0:
                raise ValueError("negative")
            job.result.set_result(2 * job.request)


def busy(batches: Batches, **options: float) -> BatchingQueue:
    """A queue that computes its first request, 0, and cannot end it yet."""
    queue = BatchingQueue(batches, **{"batch_size": 4, "most_waiting": 100, "window_seconds": 0.0} | options)
    queue.submit(Job("a", 0))
    assert batches.began.wait(PATIENCE)
    return queue


def test_what_waits_is_batched_by_kind_in_order_and_each_gets_its_own():
    batches = Batches()
    queue = busy(batches)
    jobs = [Job("b" if number % 3 == 0 else "a", number) for number in range(1, 12)]
    for job in jobs:
        queue.submit(job)
    batches.may.set()
    assert [job.result.result(PATIENCE) for job in jobs] == [2 * job.request for job in jobs]
    assert batches.seen == [[0], [1, 2, 4, 5], [3, 6, 9], [7, 8, 10, 11]]
    queue.close()


def test_a_window_gathers_what_comes_soon_and_ends_when_a_batch_is_full():
    batches = Batches()
    batches.may.set()
    queue = BatchingQueue(batches, batch_size=3, most_waiting=9, window_seconds=PATIENCE)
    jobs = [Job("a", number) for number in range(3)]
    for job in jobs:
        queue.submit(job)
        time.sleep(0.02)
    assert [job.result.result(PATIENCE / 2) for job in jobs] == [0, 2, 4]
    assert batches.seen == [[0, 1, 2]]
    queue.close()


def test_a_full_queue_refuses_and_who_leaves_makes_room():
    batches = Batches()
    queue = busy(batches, most_waiting=2)
    first, second, third = (Job("a", number) for number in (1, 2, 3))
    queue.submit(first)
    queue.submit(second)
    with pytest.raises(QueueFull, match="2 requests wait"):
        queue.submit(third)
    queue.leave(first)
    queue.submit(third)
    batches.may.set()
    assert (second.result.result(PATIENCE), third.result.result(PATIENCE)) == (4, 6)
    assert first.result.cancelled() and batches.seen == [[0], [2, 3]]
    queue.close()


def test_an_error_is_of_its_batch_alone_and_the_queue_lives():
    batches = Batches()
    queue = busy(batches)
    wrong, beside, later = Job("a", -1), Job("a", 1), Job("b", 2)
    for job in (wrong, beside, later):
        queue.submit(job)
    batches.may.set()
    assert later.result.result(PATIENCE) == 4
    assert isinstance(wrong.result.exception(PATIENCE), ValueError)
    assert isinstance(beside.result.exception(PATIENCE), ValueError)
    queue.close()


def test_closing_cancels_what_waits():
    batches = Batches()
    queue = busy(batches)
    job: Job[int] = Job("a", 1)
    queue.submit(job)
    threading.Timer(0.1, batches.may.set).start()
    queue.close()
    assert not queue.thread.is_alive()
    with pytest.raises(CancelledError):
        job.result.result(PATIENCE)
    with pytest.raises(QueueFull):
        queue.submit(Job("a", 2))


def test_many_clients_at_once_get_each_their_own():
    def run(jobs: Sequence[Job[int]]) -> None:
        for job in jobs:
            job.result.set_result(job.request)

    queue = BatchingQueue(run, batch_size=5, most_waiting=1000, window_seconds=0.001)
    jobs = [[Job(number % 2, 100 * client + number) for number in range(25)] for client in range(8)]
    threads = [threading.Thread(target=lambda few=few: [queue.submit(job) for job in few]) for few in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wait([job.result for few in jobs for job in few], PATIENCE).not_done
    assert all(job.result.result() == job.request for few in jobs for job in few)
    queue.close()
