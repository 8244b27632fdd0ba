"""Threads change when a thing is done, not what is done, nor in which order; what fails in one is heard at once."""

import threading
import time

import pytest

from datamodules.store.overlap import ReadAhead, WriteBehind


def test_items_come_in_order_and_few_wait():
    made: list[int] = []

    def source():
        for number in range(20):
            made.append(number)
            yield number

    actual = []
    for item in ReadAhead(source(), depth=2):
        actual.append(item)
        time.sleep(0.002)
        assert len(made) <= len(actual) + 4  # two wait, one is handed over, one is being made
    assert actual == list(range(20))


def test_the_next_item_is_made_while_one_is_used():
    both = threading.Barrier(2, timeout=10)

    def source():
        yield 0
        both.wait()  # passes only when the other side is in its loop's body
        yield 1

    for item in ReadAhead(source()):
        if item == 0:
            both.wait()


def test_an_error_is_raised_where_the_items_are_used():
    def source():
        yield 0
        raise ValueError("b.wav cannot be read")

    actual = []
    with pytest.raises(ValueError, match=r"b\.wav cannot be read"):
        for item in ReadAhead(source()):
            actual.append(item)
    assert actual == [0]


def test_nothing_is_left_running_when_the_user_leaves():
    before = threading.active_count()
    for _ in ReadAhead(iter(range(1000))):
        break
    assert threading.active_count() == before


def test_calls_happen_in_order_and_memory_is_bounded():
    done: list[int] = []
    behind = WriteBehind(depth=2)
    for number in range(10):

        def call(number: int = number) -> None:
            time.sleep(0.005)
            done.append(number)

        behind.call(call)
        assert number - len(done) <= 2
    behind.close()
    assert done == list(range(10))


def test_what_a_call_raised_is_raised_by_the_next_look():
    behind = WriteBehind()

    def full() -> None:
        raise ValueError("no space left")

    behind.call(full)
    limit = time.monotonic() + 10
    with pytest.raises(ValueError, match="no space left"):
        while time.monotonic() < limit:
            behind.check()
    behind.close()
    behind = WriteBehind()
    behind.call(full)
    with pytest.raises(ValueError, match="no space left"):
        behind.close()
