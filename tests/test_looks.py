"""Whether a member diverged, at which step and in which leaf depends on steps alone, however the clock cuts segments."""

import itertools

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import same_bits

import gradkit as gk
from gradkit.engine import chunk as chunks
from gradkit.engine.runs import Pace

STEPS = 1500
# how the leaf is bad that no loss reads -> its bad steps, the bad step of the loss (0: none), status, steps made, bad leaf
COURSES = {
    "for a moment": (range(100, 103), 0, "FINISHED", STEPS, None),
    "from a step on": (range(1410, 9999), 0, "DIVERGED", 1409, "state[1]"),
    "early, from a step on": (range(1, 9999), 0, "DIVERGED", 0, "state[1]"),
    "at a look": (range(1020, 1031), 0, "DIVERGED", 1019, "state[1]"),
    "in every odd step": (range(201, 9999, 2), 0, "FINISHED", STEPS, None),
    "at the end": ([*range(700, 708), STEPS], 0, "DIVERGED", STEPS - 1, "state[1]"),
    "until the loss is": (range(300, 9999), 700, "DIVERGED", 299, "state[1]"),
    "before the loss is": (range(300, 311), 700, "DIVERGED", 699, "loss"),
    "when the loss is": (range(300, 9999), 301, "DIVERGED", 299, "state[1]"),
    "not at all": ((), 0, "FINISHED", STEPS, None),
}
BAD = np.zeros((len(COURSES), STEPS + 1), bool)
for row, (steps, *_) in zip(BAD, COURSES.values()):
    row[[step for step in steps if step <= STEPS]] = True
BAD_LOSS = np.array([course[1] for course in COURSES.values()])
PACES = {"one segment": [16384], "seconds": [16, 700, 650], "short": [37], "uneven": [5, 1, 64, 3, 300]}


def course(h):
    """A weight, the leaf, and the steps made; each step grows by its number."""

    def step(state, batch):
        weight, _, made = state
        made = made + 1
        mark = jnp.where(jnp.asarray(BAD)[h.course, made], jnp.inf, 0.0)
        loss = jnp.where(made == jnp.asarray(BAD_LOSS)[h.course], jnp.nan, weight**2)
        return (weight * 0.999, mark, made), gk.Info(loss, {}), made

    init = lambda *_: (jnp.ones(()), jnp.zeros(()), jnp.zeros((), int))  # noqa: E731
    return gk.Descent(init, step, lambda state, growths: (state[0], growths), lambda params, batch: params[0] ** 2)


def run(monkeypatch, pace, data=None, **settings):
    lengths = itertools.cycle(PACES[pace])
    monkeypatch.setattr(Pace, "steps", lambda self, width: next(lengths))
    space = gk.grid(course=range(len(COURSES)))
    data = jnp.zeros(1) if data is None else data
    return gk.sweep(course, data, space, **{"steps": STEPS, "plan": gk.Plan(width=5, threads=1), "progress": False} | settings)


def told(fit):
    return fit.status.name, fit.steps, fit.bad_leaf


@pytest.mark.few(3)
@pytest.mark.parametrize("pace", PACES)
@pytest.mark.parametrize("is_streamed", [False, True], ids=["arrays", "a stream"])
def test_status_step_and_leaf_do_not_depend_on_where_segments_end(monkeypatch, pace, is_streamed):
    batches = iter(np.zeros((STEPS, 1))) if is_streamed else None
    sweep = run(monkeypatch, pace, batches)
    for fit, (_, _, *expected) in zip(sweep, COURSES.values()):
        assert told(fit) == tuple(expected)
        weight, growths = fit.params
        np.testing.assert_allclose(weight, 0.999**fit.steps, rtol=1e-4)
        np.testing.assert_array_equal(growths, [*range(1, fit.steps + 1), *[0] * (STEPS - fit.steps)])
        recorded = fit.history["loss"]
        assert np.isfinite(recorded[: fit.steps]).all() and np.isnan(recorded[fit.steps + 1 :]).all()


def test_a_replay_finds_what_the_sweep_found(monkeypatch):
    sweep = run(monkeypatch, "seconds")
    monkeypatch.setattr(Pace, "steps", lambda self, width: 333)
    for member in (1, 3, 4, 6):
        again = sweep.replay(member)
        assert told(again) == told(sweep[member])
        assert same_bits((again.params, again.history), (sweep[member].params, sweep[member].history))


def test_evaluations_and_rungs_are_looks(monkeypatch):
    evaluated = {"validation": jnp.zeros(1), "evaluate_every": 101}
    for pace in ("one segment", "uneven"):
        sweep = run(monkeypatch, pace, **evaluated)
        assert told(sweep[0]) == ("DIVERGED", 99, "state[1]")
        assert sweep[0].evaluations["step"].tolist() == [0, 99]
        assert told(sweep[4]) == ("DIVERGED", 302, "state[1]")
    halved = run(monkeypatch, "short", halving=gk.Halving(eta=2, min_steps=101))
    assert told(halved[0]) == ("DIVERGED", 99, "state[1]")


def test_what_is_in_doubt_when_a_run_is_cut_short_rests_in_a_finite_state(monkeypatch):
    sweep = run(monkeypatch, "uneven", iter(np.zeros((1015, 1))))
    statuses = {name: told(fit) for name, fit in zip(COURSES, sweep)}
    assert statuses["early, from a step on"] == ("DIVERGED", 0, "state[1]")
    assert statuses["in every odd step"] == ("DIVERGED", 1014, "state[1]")
    assert statuses["at a look"] == ("STOPPED", 1015, None)


def test_members_in_doubt_stay_so_where_a_chunk_splits(monkeypatch):
    launch = chunks.launch

    def lacking(chunk, *args):
        if chunk.run.program.width > 3 and chunk.step >= 600:
            raise RuntimeError("RESOURCE_EXHAUSTED: too much")
        return launch(chunk, *args)

    monkeypatch.setattr(chunks, "launch", lacking)
    sweep = run(monkeypatch, "short")
    assert [told(fit) for fit in sweep] == [tuple(expected) for _, _, *expected in COURSES.values()]


@pytest.mark.parametrize("order", ["shared", "per_seed"])
@pytest.mark.parametrize("pace", ["one segment", "uneven"])
def test_every_step_sees_the_batch_of_its_number_before_and_after_looks(monkeypatch, pace, order):
    """A segment is given the rows up to the next look only; a row too few would go unseen in most losses."""
    rows = np.arange(50.0, dtype=np.float32)

    def loss_fn(params, batch):
        return params**2, {"first_row": batch[0]}

    lengths = itertools.cycle(PACES[pace])
    monkeypatch.setattr(Pace, "steps", lambda self, width: next(lengths))
    make = lambda h: gk.descent(loss_fn, jnp.float32(1), optax.sgd(h.learning_rate))  # noqa: E731
    space = gk.grid(learning_rate=[0.1], seed=range(2)) if order == "per_seed" else gk.grid(learning_rate=[0.1, 0.2])
    sweep = gk.sweep(make, rows, space, steps=2100, batch_size=3, order=order, key=5, progress=False)
    source = gk.data.source(rows, batch_size=3, key=5, per_seed=order == "per_seed")
    for seed, fit in enumerate(sweep):
        expected = source.tickets(seed if order == "per_seed" else None, 0, 2100)[:, 0]
        np.testing.assert_array_equal(fit.history["first_row"], rows[expected])
