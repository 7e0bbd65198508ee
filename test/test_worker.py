# SPDX-License-Identifier: Apache-2.0
"""The worker thread: newest wins, drops are counted, an exception costs one item."""

from __future__ import annotations

import threading

from waiting import PATIENCE, wait_for

from radseg_ros.worker import LatestWorker


def settle(worker: LatestWorker) -> None:
    """Wait until nothing waits and nothing is being worked on."""
    wait_for(lambda: not worker.pending)


class Gate:
    """Work that waits until it is told to go on, so that the test decides what is waiting when."""

    def __init__(self) -> None:
        self.seen: list = []
        self.started = threading.Semaphore(0)
        self.go = threading.Semaphore(0)

    def __call__(self, item: object) -> None:
        self.seen.append(item)
        self.started.release()
        assert self.go.acquire(timeout=PATIENCE)


def test_newest_waiting_item_wins_and_the_rest_is_counted():
    gate = Gate()
    worker = LatestWorker(gate)
    worker.submit(0)
    assert gate.started.acquire(timeout=PATIENCE)
    for item in range(1, 20):
        worker.submit(item)
    assert worker.pending == 2
    gate.go.release(2)
    settle(worker)
    assert gate.seen == [0, 19]
    assert (worker.done, worker.dropped, worker.failed) == (2, 18, 0)
    assert worker.close(PATIENCE)


def test_capacity_keeps_the_order_and_drops_the_oldest():
    gate = Gate()
    worker = LatestWorker(gate, capacity=3)
    worker.submit(0)
    assert gate.started.acquire(timeout=PATIENCE)
    for item in range(1, 6):
        worker.submit(item)
    gate.go.release(9)
    settle(worker)
    assert gate.seen == [0, 3, 4, 5] and worker.dropped == 2
    worker.close(PATIENCE)


def test_an_exception_costs_one_item_and_is_logged(caplog):
    seen = []

    def work(item: int) -> None:
        if item == 1:
            raise RuntimeError("bad frame")
        seen.append(item)

    worker = LatestWorker(work, capacity=9, name="mapper")
    for item in range(4):
        worker.submit(item)
    settle(worker)
    assert seen == [0, 2, 3] and (worker.done, worker.failed) == (3, 1)
    assert "mapper: one item was lost" in caplog.text and "bad frame" in caplog.text
    worker.close(PATIENCE)


def test_close_joins_forgets_what_waits_and_ignores_what_comes_later():
    gate = Gate()
    worker = LatestWorker(gate)
    worker.submit("running")
    assert gate.started.acquire(timeout=PATIENCE)
    worker.submit("waiting")
    assert not worker.close(timeout=0.05), "the running item is not interrupted"
    gate.go.release()
    assert worker.close(PATIENCE)
    worker.submit("late")
    assert gate.seen == ["running"] and worker.pending == 0


def test_close_from_inside_the_work_does_not_wait_for_itself():
    ended = threading.Event()

    def work(_: object) -> None:
        worker.close(PATIENCE)
        ended.set()

    worker = LatestWorker(work)
    worker.submit(None)
    assert ended.wait(PATIENCE) and worker.close(PATIENCE)


def test_clear_says_how_many_were_waiting():
    gate = Gate()
    worker = LatestWorker(gate, capacity=5)
    for item in range(4):
        worker.submit(item)
    assert gate.started.acquire(timeout=PATIENCE)
    assert worker.clear() == {"": 3} and worker.dropped == 0
    gate.go.release()
    settle(worker)
    assert gate.seen == [0]
    worker.close(PATIENCE)


def test_no_item_is_lost_or_worked_on_twice_under_load():
    seen: list[int] = []
    worker = LatestWorker(seen.append)

    def send(base: int) -> None:
        for i in range(500):
            worker.submit(base + i)

    senders = [threading.Thread(target=send, args=(base,)) for base in (0, 1000, 2000)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    settle(worker)
    assert len(seen) == len(set(seen)) == worker.done and worker.done + worker.dropped == 1500
    worker.close(PATIENCE)
