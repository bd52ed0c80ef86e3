"""What members report: a column each, whatever it is called and of whatever kind it is, and what it came to."""

import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradkit as gk
from gradkit.engine import chunk, segment
from gradkit.engine.ledger import ending

QUIET = {"progress": False}
DATA = np.random.default_rng(0).normal(size=64).astype(np.float32)
RATES = gk.grid(learning_rate=[0.001, 0.1])
REPORTS = {}  # what the steps of ``told`` report, by name: functions of w and the batch


def told(names):
    """A line through the origin whose steps report the named things."""

    def loss(w, batch):
        return jnp.mean((w * batch - 3 * batch) ** 2), {name: REPORTS[name](w, batch) for name in names}

    return lambda h: gk.descent(loss, jnp.zeros(()), optax.sgd(h.learning_rate))


REPORTS |= {
    "accuracy": lambda w, batch: -w,
    "half": lambda w, batch: jnp.bfloat16(w),
    "wave": lambda w, batch: w + 1j,
    "is_far": lambda w, batch: w < 1.5,
    "level": lambda w, batch: jnp.int32(10 * w),
    "vector": lambda w, batch: batch,
    "nest": lambda w, batch: {"inner": w},
    "initial_accuracy": lambda w, batch: w,
    "validation_accuracy": lambda w, batch: w,
    "status": lambda w, batch: w,
    "learning_rate": lambda w, batch: w,
    "secret": lambda w, batch: jax.random.key(0),
}


def accuracy(w, batch):
    return {"accuracy": w}


def run(*names, space=RATES, **settings):
    settings = {"steps": 40, "batch_size": 8, **QUIET} | settings
    return gk.sweep(told(names), DATA, space, **settings)


BOTH = {"validation": DATA, "evaluate": accuracy}


def test_a_name_that_steps_and_evaluation_share_is_two_columns():
    sweep = run("accuracy", metric="validation_accuracy", goal="max", evaluate_every=20, **BOTH)
    table = sweep.table()
    params = [float(fit.params) for fit in sweep]
    assert table.validation_accuracy.tolist() == pytest.approx(params, rel=1e-6)
    means = [fit.history["accuracy"][-2:].mean() for fit in sweep]
    assert table.train_accuracy.tolist() == pytest.approx(means, rel=1e-6)
    assert "accuracy" not in table and {"initial_train_accuracy", "initial_validation_accuracy"} < {*table}
    assert sweep.best().hyper == {"learning_rate": 0.1} != sweep.best("train_accuracy", goal="max").hyper
    assert all(f"{side}_accuracy {sign}2.99" in repr(sweep) for side, sign in (("validation", ""), ("train", "-")))
    curves = sweep.curves()
    assert curves.validation_accuracy.dropna().index.tolist() == [0, 20, 40, 41, 61, 81]
    assert curves.train_accuracy.notna().sum() == 80
    with pytest.raises(ValueError, match="`metric` must say which accuracy is meant, as steps and evaluate both report"):
        sweep.best("accuracy", goal="max")


@pytest.mark.parametrize(("metric", "kept"), [("validation_accuracy", 1), ("train_accuracy", 0)])
def test_halving_by_a_shared_name_says_which(metric, kept):
    sweep = run("accuracy", halving=gk.Halving(min_steps=10, metric=metric, goal="max"), **BOTH)
    assert [fit.status.name for fit in sweep][kept] == "FINISHED"
    assert sweep.best().member == kept


@pytest.mark.parametrize(
    ("names", "settings", "message"),
    [
        (["accuracy"], {"metric": "accuracy", **BOTH}, "`metric` must say which accuracy is meant, .* Write 'train_accuracy' or"),
        (["accuracy"], {"halving": gk.Halving(min_steps=5, metric="accuracy"), **BOTH}, "`halving.metric` must say which"),
        (["accuracy", "initial_accuracy"], {}, "`loss_fn` must bring only names .*, got initial_accuracy"),
        (["accuracy", "validation_accuracy"], BOTH, "`evaluate` must bring only names .*, got .*validation_accuracy"),
        (["status"], {}, "`loss_fn` must bring only names .*, got status"),
        (["learning_rate"], {}, "`loss_fn` must bring only names .*, got .*learning_rate"),
        (
            [],
            {"space": RATES * gk.grid(initial_accuracy=[1.0]), **BOTH},
            "`evaluate` must bring only names .*, got initial_accuracy",
        ),
        (["wave"], {"metric": "wave", "goal": "max"}, "`metric` must be a real number that all programs of the sweep report"),
    ],
)
def test_names_that_would_mean_two_things_are_refused_before_anything_compiles(names, settings, message, monkeypatch):
    monkeypatch.setattr(segment, "compiled", lambda program: pytest.fail("a program of the run was started"))
    with pytest.raises(ValueError, match=f"^{message}"):
        run(*names, **settings)


@pytest.mark.parametrize("name", ["vector", "nest", "secret"])
def test_what_is_no_number_is_refused(name):
    with pytest.raises(TypeError, match="must be a scalar"):
        run(name)


def test_an_axis_may_have_the_name_of_a_start():
    make = lambda h: gk.descent(lambda w, b: (w - 1) ** 2, lambda key: h.initial_scale * jnp.ones(()), optax.sgd(0.1))  # noqa: E731
    sweep = gk.sweep(make, DATA, gk.grid(initial_scale=[0.0, 3.0]), steps=3, **QUIET)
    assert "best: initial_scale=0" in repr(sweep)


@pytest.mark.filterwarnings("error")
def test_numbers_of_all_kinds_come_out_in_double_precision():
    sweep = run("half", "wave", "is_far", "level", validation=DATA, evaluate=lambda w, batch: {"far": w < 1.5, "phase": w + 2j})
    table, fit = sweep.table(), sweep[0]
    assert table.half[0] == np.mean(fit.history["half"][-2:].astype(float)) != fit.history["half"][-1]
    assert table.half.dtype == float and sweep.best("half", goal="max").hyper == {"learning_rate": 0.1}
    assert table.wave[0] == pytest.approx(np.mean(fit.history["wave"][-2:]), rel=1e-6)
    assert table.phase.tolist() == pytest.approx([float(fit.params) + 2j for fit in sweep], rel=1e-6)
    assert table.is_far.tolist() == [1, 0] == table.far.tolist()
    assert table.level.tolist() == [each.history["level"][-1] for each in sweep]
    assert "level 2" in repr(sweep) and sweep.plot() and len(sweep.curves()) == 82
    with pytest.raises(ValueError, match=r"`metric` must be one of .*half.*, got 'wave'"):
        sweep.best("wave", goal="max")


def test_only_whole_numbers_by_type_that_never_fall_are_counts():
    late = np.array([0, 0, 0, 0, 0, 0, 0, 1.0])
    came_to = lambda values, name="thing", **kind: float(ending(values, values[-4:], name, **kind))  # noqa: E731
    assert came_to(late, is_whole=False) == 0.25  # a share of steps
    assert came_to(late, is_whole=True) == 1
    assert came_to(np.array([0, 2, 1, 2.0]), is_whole=True) == 1.25  # it fell
    assert came_to(np.array([0, 2, 1, 0.0]), "skipped_in_a_row", is_whole=True) == 0
    assert ending(np.stack([late, -late], 1), np.stack([late, -late], 1)[-4:], "thing", is_whole=True).tolist() == [1, -0.25]


@pytest.mark.parametrize("every", [3, 40, 1000])
def test_a_thinned_history_tells_the_ends_and_the_lowest_of_all_steps(every):
    settings = {"space": gk.grid(learning_rate=[0.001, 0.1, 1e30, 0.2]), "steps": 100, "plan": gk.Plan(width=2)}
    whole, thin = (run("level", "accuracy", history_every=each, **settings) for each in (1, every))
    assert whole[0].history["loss"].min() < thin[0].history["loss"].min() or every < 40
    assert thin.table().equals(whole.table())
    assert thin.table().final_loss[0] == pytest.approx(whole[0].history["loss"][-5:].astype(float).mean())
    last = whole[1].history["loss"][-5:]
    assert thin[1].tail["loss"].tolist() == last.tolist()
    halving = gk.Halving(eta=2, min_steps=30)
    halved = [run("level", history_every=each, halving=halving, **settings) for each in (1, every)]
    assert halved[0].rungs.equals(halved[1].rungs)
    assert halved[0].table().equals(halved[1].table())


def test_the_question_does_not_change_where_the_first_member_never_began(monkeypatch):
    usual = chunk.settle

    def settle_then_interrupt(*args):
        usual(*args)
        handler = signal.getsignal(signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is handler:  # the main thread takes it in when it next runs
            time.sleep(0.001)

    monkeypatch.setattr(chunk, "settle", settle_then_interrupt)
    space = gk.zipped(learning_rate=[0.001, 0.1], steps=[30, 5])  # the shorter one runs first
    sweep = run("accuracy", space=space, steps=None, validation=DATA, plan=gk.Plan(width=1, threads=1))
    assert [(fit.status.name, fit.steps) for fit in sweep] == [("STOPPED", 0), ("FINISHED", 5)]
    assert (sweep.metric, sweep.best().metric, sweep.best().member) == ("validation_loss", "validation_loss", 1)
    assert np.isnan(sweep.table().validation_loss[0]) and "validation_loss" in repr(sweep)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_never_wins_and_is_told_where_it_is_all(bad):
    def spoilt(w, batch):
        return {"some": jnp.where(w < 1.5, bad, w), "all": bad * jnp.abs(w)}

    sweep = run(validation=DATA, evaluate=spoilt, metric="some", goal="min")
    assert sweep.best().hyper == {"learning_rate": 0.1}
    assert sweep.best("some", goal="max").hyper == {"learning_rate": 0.1}
    with pytest.raises(
        ValueError, match=r"^`metric` must be finite in a member that finished, got all that is NaN or infinite in"
    ):
        sweep.best("all", goal="min")
    hopeless = run(validation=DATA, evaluate=spoilt, metric="all", goal="max")
    assert "2 finished; in none of those that finished is all finite" in repr(hopeless)


def test_of_equals_the_first_in_the_space_wins():
    sweep = run("is_far", space=gk.grid(learning_rate=[0.001, 0.2, 0.1]))
    assert sweep.best("is_far", goal="min").members == (1,)
    assert sweep.best("is_far", goal="min", over="learning_rate").members == (1, 2, 0)
