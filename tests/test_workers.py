"""Jobs by several threads: in order, few ahead, ended where nobody waits, PyTorch's threads as they were."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
from rdcodec.codecs import torch_state
from rdcodec.codecs.torch_state import THREADED_WORK
from rdcodec.codecs.workers import in_order


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_and_parts_are_told_in_the_callers_thread(workers):
    first_may_end = threading.Event()

    def job(number, told):
        told(1)
        if number == 1 or workers == 1:
            first_may_end.set()
        if number == 0 and workers > 1:
            assert first_may_end.wait(20), "jobs are not done at once"
            assert torch.get_num_threads() == 1
        told(2)
        return number

    told = []
    results = in_order(
        (partial(job, number) for number in range(9)), workers, lambda n: told.append((threading.get_ident(), n))
    )
    assert list(results) == list(range(9))
    assert told.count((threading.get_ident(), 1)) == told.count((threading.get_ident(), 2)) == 9 == len(told) / 2


def test_few_jobs_are_taken_before_their_turn():
    taken = []

    def jobs():
        for number in range(100):
            taken.append(number)
            yield lambda told, number=number: number

    results = in_order(jobs(), 2, lambda _: None)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) <= 5
    results.close()


def test_an_error_comes_in_its_turn_and_ends_the_others():
    def job(number, told):
        if number == 2:
            raise KeyError(number)
        for _ in range(1_000_000 if number == 3 else 1):
            told(1)
            if number == 3:
                began.set()
                assert not stop.wait(0.001), "it went on for twenty seconds"
        return number

    began, stop = threading.Event(), threading.Event()
    ends = threading.Timer(20, stop.set)
    ends.start()
    found = []
    with pytest.raises(KeyError, match="2"):
        for number in in_order((partial(job, number) for number in range(6)), 2, lambda _: None):
            found.append(number)
    ends.cancel()
    assert found == [0, 1] and not stop.is_set()


def test_what_the_caller_raises_when_told_ends_all():
    def told(_):
        raise KeyboardInterrupt

    def job(tell):
        while True:
            tell(1)

    with pytest.raises(KeyboardInterrupt):
        list(in_order([job] * 3, 2, told))


def test_how_many_at_once():
    assert torch_state.workers(THREADED_WORK - 1) == 2
    assert torch_state.workers(THREADED_WORK - 1, 3) == 3
    assert torch_state.workers(THREADED_WORK - 1, 100) == torch_state.WORKERS_MAX
    assert torch_state.workers(THREADED_WORK, 3) == 1
