"""Jobs by several threads: in order, few ahead, ended where nobody waits, PyTorch's threads as they were."""

from __future__ import annotations

import os
import threading
import time
from functools import partial

import pytest
import torch
from rdcodec.codecs import torch_state
from rdcodec.codecs.torch_state import THREADED_WORK, own_state, set_own_threads
from rdcodec.codecs.workers import in_order


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == elsewhere(torch.get_num_threads) == 2
    torch.set_num_threads(before)


def elsewhere(call):
    found = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    thread.join(20)
    return found[0]


def until(true):
    ends_s = time.monotonic() + 20
    while not true():
        assert time.monotonic() < ends_s
        time.sleep(0.01)


def nothing(_):
    pass


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_order_and_parts_are_told_in_the_callers_thread(workers):
    first_may_end = threading.Event()

    def job(number, told):
        told(1)
        if number == 1 or workers == 1:
            first_may_end.set()
        if number == 0 and workers > 1:
            assert first_may_end.wait(20), "jobs are not done at once"
            assert torch.get_num_threads() == 1 and elsewhere(torch.get_num_threads) == 2
        yield number, "a"
        told(2)
        yield number, "b"

    told = []
    jobs = (partial(job, number) for number in range(9))
    results = in_order(jobs, workers, lambda n: told.append((threading.get_ident(), n)), partial(set_own_threads, 1))
    assert list(results) == [(number, letter) for number in range(9) for letter in "ab"]
    assert sorted(told) == [(threading.get_ident(), parts) for parts in (1, 2) for _ in range(9)]


def test_the_first_result_does_not_wait_for_the_rest():
    seen = threading.Event()

    def job(_):
        yield 1
        assert seen.wait(20), "it was kept back"
        yield 2

    results = in_order([job, job], 2, nothing)
    assert next(results) == 1
    seen.set()
    assert list(results) == [2, 1, 2]


def test_few_jobs_are_taken_before_their_turn():
    taken = []

    def jobs():
        for number in range(100):
            taken.append(number)
            yield lambda told, number=number: [number]

    results = in_order(jobs(), 2, nothing)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) <= 5
    results.close()


def test_an_error_comes_in_its_turn_and_ends_the_others():
    def job(number, told):
        yield number
        if number == 2:
            assert began.wait(20)
            raise KeyError(number)
        if number == 3:
            began.set()
            try:
                for _ in range(20_000):
                    told(1)
                    time.sleep(0.001)
            except BaseException:
                ended.set()
                raise

    began, ended, found = threading.Event(), threading.Event(), []
    with pytest.raises(KeyError, match="2"):
        for number in in_order((partial(job, number) for number in range(6)), 2, nothing):
            found.append(number)
    assert found == [0, 1, 2] and ended.wait(20)


@pytest.mark.parametrize("leave", ["raise", "close"])
def test_who_leaves_does_not_wait_for_the_jobs(leave):
    """A part may last for seconds."""

    def told(_):
        if leave == "raise":
            raise KeyboardInterrupt

    def job(tell):
        yield 0
        tell(1)
        assert go_on.wait(20)
        for _ in range(1000):
            tell(1)
            ended.append(0)

    go_on, ended = threading.Event(), []
    results = in_order([job] * 3, 2, told)
    began_s = time.monotonic()
    if leave == "raise":
        with pytest.raises(KeyboardInterrupt):
            list(results)
    else:
        next(results)
        results.close()
    assert time.monotonic() - began_s < 10
    go_on.set()
    time.sleep(0.1)
    assert len(ended) <= 2


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_in_the_taking_of_jobs_comes_in_its_turn(workers):
    def jobs():
        for number in range(2):
            yield lambda told, number=number: [number]
        raise KeyError

    found = []
    with pytest.raises(KeyError):
        for number in in_order(jobs(), workers, nothing):
            found.append(number)
    assert found == [0, 1]
    assert list(in_order([], workers, nothing)) == []


def test_a_thread_that_cannot_begin_is_an_error():
    threads_before = threading.active_count()

    def begin():
        raise KeyError

    with pytest.raises(KeyError):
        next(in_order([lambda told: [1]] * 3, 2, nothing, begin))
    until(lambda: threading.active_count() <= threads_before)


@pytest.mark.parametrize("leave", ["close", "end", "error"])
def test_no_thread_is_left(leave):
    threads_before = threading.active_count()

    def job(told):
        yield 1
        if leave == "error":
            raise KeyError

    results = in_order([job] * 4, 3, nothing)
    next(results)
    if leave == "close":
        results.close()
    elif leave == "end":
        assert list(results) == [1, 1, 1]
    else:
        with pytest.raises(KeyError):
            next(results)
    until(lambda: threading.active_count() <= threads_before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_child_is_told_that_it_cannot_go_on():
    results = in_order([lambda told: [1, 2]] * 3, 2, nothing)
    next(results)
    if not (child := os.fork()):
        try:
            next(results)
        except RuntimeError as error:
            os._exit(0 if "forked" in str(error) else 1)
        finally:
            os._exit(2)
    ended = []
    until(lambda: ended.append(os.waitpid(child, os.WNOHANG)) or ended[-1][0])
    assert ended[-1] == (child, 0)
    assert list(results) == [2, 1, 2, 1, 2]


@pytest.mark.parametrize("own", [None, 3])
def test_threads_of_one_thread_are_not_those_of_others(own):
    def other():
        if own:
            set_own_threads(own)
        with own_state(0):
            inside.set()
            leave.wait(20)
            found.append(torch.get_num_threads())
        found.append(torch.get_num_threads())

    found, inside, leave = [], threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    with own_state(0):
        thread.start()
        assert inside.wait(20) and torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2
    leave.set()
    thread.join(20)
    assert found == [1, own or 2]


def test_how_many_at_once():
    assert torch_state.workers(THREADED_WORK - 1) == 2
    assert torch_state.workers(THREADED_WORK - 1, 3) == 3
    assert torch_state.workers(THREADED_WORK - 1, 100) == torch_state.WORKERS_MAX
    assert torch_state.workers(THREADED_WORK, 3) == 1
