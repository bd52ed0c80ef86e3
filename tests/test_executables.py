"""Chunks in flight on a CPU: each calls an executable of its own, which changes no bit and compiles nothing in short runs."""

import threading

import optax
import pytest
from problems import init_net, net_loss, regression_data, same_bits

import gradkit as gk
from gradkit.engine import chunk as chunks
from gradkit.engine import executables

SPACE = gk.grid(learning_rate=gk.geomspace(1e-3, 10.0, 8), seed=range(2))


def new_make(traces=None):
    """A ``make`` of its own, so that nothing of it is compiled yet."""

    def loss(params, batch):
        if traces is not None:
            traces.append(1)
        return net_loss(params, batch)

    return lambda h: gk.descent(loss, init_net, optax.sgd(h.learning_rate))


def run(make, threads=2, **changes):
    plan = gk.Plan(width=2, threads=threads)
    return gk.sweep(make, regression_data(), SPACE, **{"steps": 60, "batch_size": 16, "plan": plan, "progress": False} | changes)


@pytest.fixture
def calls(monkeypatch):
    """What segments called: the copy, and whether another chunk was calling it."""
    told, now, lock = [], set(), threading.Lock()
    launch, settle = chunks.launch, chunks.settle

    def noted_launch(chunk, *args):
        with lock:
            told.append((chunk.copy, chunk.copy in now))
            now.add(chunk.copy)
        return launch(chunk, *args)

    def noted_settle(chunk, *args):
        settle(chunk, *args)
        with lock:
            now.discard(chunk.copy)

    monkeypatch.setattr(chunks, "launch", noted_launch)
    monkeypatch.setattr(chunks, "settle", noted_settle)
    return told


def test_chunks_in_flight_call_copies_of_their_own_to_the_same_bits(calls, monkeypatch):
    make = new_make()
    alone = run(make, threads=1)
    assert {copy for copy, _ in calls} == {0}
    monkeypatch.setattr(executables, "COPY_PAYS", 0)
    for _ in range(9):  # who finds another compiling goes on with the first
        if {copy for copy, _ in calls} != {0, 1}:
            run(make)
    calls.clear()
    for _ in range(9):  # a chunk may have ended before the next began
        if {copy for copy, _ in calls} != {0, 1}:
            sweep = run(make)
    assert {copy for copy, _ in calls} == {0, 1}
    assert not any(is_shared for _, is_shared in calls)
    assert {fit.status for fit in sweep} == {gk.Status.FINISHED, gk.Status.DIVERGED}
    for ours, reference in zip(sweep, alone):
        assert same_bits((ours.params, ours.history), (reference.params, reference.history))
        assert (ours.status, ours.steps, ours.bad_leaf) == (reference.status, reference.steps, reference.bad_leaf)


def test_a_run_of_less_than_ten_compilations_makes_no_copy_nor_does_the_next(calls):
    traces = []
    make = new_make(traces)
    run(make, steps=5)
    num_traces = len(traces)
    run(make, steps=5)
    assert {copy for copy, _ in calls} == {0}
    assert len(traces) == num_traces


def test_an_accelerator_needs_no_copies(calls, monkeypatch):
    monkeypatch.setattr(executables, "COPY_PAYS", 0)
    monkeypatch.setattr(executables, "_is_on_cpu", lambda chunk: False)
    make = new_make()
    for _ in range(3):
        run(make)
    assert {copy for copy, _ in calls} == {0}
