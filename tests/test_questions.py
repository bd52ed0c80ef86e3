"""One question, asked once: its defaults, where it is refused, and that all that a sweep says answers it."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradkit as gk
from gradkit import questions
from gradkit.engine import segment
from gradkit.questions import Question, Reported

QUIET = {"progress": False}
RATES = [0.001, 0.3, 0.03, 0.1]


def told(steps=(), evaluation=(), of_all=None):
    """What members report, by default all of them."""
    reported = Reported(steps, evaluation)
    return reported._replace(of_all=frozenset(reported.columns if of_all is None else of_all))


def test_the_default_is_a_loss_of_data_not_learned_from():
    assert told().default == "final_loss"
    assert told(("accuracy",)).default == "final_loss"
    assert told(("held_out_loss",)).default == "held_out_loss"
    assert told(("held_out_loss",), of_all=()).default == "final_loss"
    assert told(("held_out_loss",), ("validation_loss",)).default == "validation_loss"


def test_a_metric_must_be_reported():
    for metric in ("loss", "final_loss", "best_loss", "validation_loss", "accuracy"):
        questions.check_metric("metric", metric, told((), ("validation_loss", "accuracy")))
    unknown = "^`halving.metric` must be one of loss, validation_loss, accuracy, got 'f1'. Choose one of these names"
    with pytest.raises(ValueError, match=unknown):
        questions.check_metric("halving.metric", "f1", told((), ("validation_loss", "accuracy")))
    blind = "^`metric` must be 'loss' without validation data, got 'accuracy'. Pass validation="
    with pytest.raises(ValueError, match=blind):
        questions.check_metric("metric", "accuracy", told())
    questions.check_metric("metric", "held_out_loss", told(("held_out_loss",)))
    with pytest.raises(ValueError, match="must be 'loss' or 'held_out_loss' without validation data, got 'validation_loss'"):
        questions.check_metric("metric", "validation_loss", told(("held_out_loss",)))
    with pytest.raises(ValueError, match="`metric` must be a real number that all programs of the sweep report, got"):
        questions.check_metric("metric", "norm", told(("norm",), of_all=()))
    with pytest.raises(TypeError, match="`metric` must be a name, got 3"):
        questions.check_metric("metric", 3, told())


def rewarded(h):
    """The lower the rate, the higher the reward and the loss; each fold adds its own noise to both."""

    def loss(w, batch):
        noise = 0.01 * jnp.where(h.fold == 1, 1.0, -1.0)
        return (w - 3) ** 2 + noise, {"reward": -h.learning_rate + noise}

    return gk.descent(loss, jnp.zeros(()), optax.sgd(h.learning_rate))


FOLDS = gk.grid(learning_rate=RATES, fold=range(4))


def rewards(**settings):
    """A sweep whose steps report a reward."""
    settings = {"steps": 20, "plan": gk.Plan(width=4), **QUIET} | settings
    return gk.sweep(rewarded, jnp.zeros(1), FOLDS, **settings)


ASKED = {"metric": "reward", "goal": "max", "over": "fold"}


@pytest.mark.parametrize(
    "settings",
    [
        ASKED,
        {"halving": gk.Halving(min_steps=2, **ASKED)},
        {"halving": gk.Halving(min_steps=2), **ASKED},
        {"halving": gk.Halving(min_steps=2, metric="reward", over="fold"), "goal": "max"},
    ],
)
def test_a_question_asked_in_either_place_is_answered_everywhere(settings):
    sweep = rewards(**settings)
    assert sweep.question == Question(metric="reward", goal="max", over="fold")
    best = sweep.best()
    assert (best.hyper, best.metric, len(best.members)) == ({"learning_rate": 0.001}, "reward", 4)
    assert best.mean == pytest.approx(-0.001 - 0.005, rel=1e-5)  # one of the four folds has the other sign
    assert "best: learning_rate=0.001: reward -0.006 ± 0.01 over 4 folds" in repr(sweep)
    assert "fold=" not in repr(sweep) and "fold:" not in repr(sweep)
    assert sweep.summary().best == best
    assert sweep.configurations() == [tuple(range(4 * i, 4 * i + 4)) for i in range(4)]
    table = sweep.table()
    assert table.columns[table.columns.get_loc("steps_made") + 1 :][: 1 + ("rung" in table)][-1] == "reward"
    axes = sweep.plot().axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning_rate", "reward")
    if sweep.passed:
        assert sweep.rungs.best.to_numpy() == pytest.approx(best.mean, rel=1e-5)
        assert [fit.status.name for fit in sweep][:4] == ["FINISHED"] * 4


def test_a_call_may_ask_otherwise():
    sweep = rewards(**ASKED)
    assert sweep.best("loss").hyper == {"learning_rate": 0.3}
    assert sweep.best("final_loss") == sweep.best("loss")
    assert sweep.best(goal="min").hyper == {"learning_rate": 0.3}
    assert sweep.best(over=None).hyper == {"learning_rate": 0.001, "fold": 1}
    assert "best: learning_rate=0.3: final_loss" in str(sweep.summary("loss"))
    assert sweep.plot("loss").axes[0].get_ylabel() == "final_loss"
    assert sweep.best().metric == "reward"


def test_trees_over_folds_are_compared_by_what_is_held_out():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(80, 2)).astype(np.float32)
    data = gk.boosting.Examples(gk.boosting.bin(inputs), inputs[:, 0] + rng.normal(size=80), fold=np.arange(80) % 2)
    make = lambda h: gk.boosting.descent(gk.losses.squared, learning_rate=h.rate, depth=3, fold=h.fold)  # noqa: E731
    sweep = gk.sweep(make, data, gk.grid(rate=[0.03, 1.0], fold=range(2)), steps=20, over="fold", **QUIET)
    assert sweep.best("final_loss").hyper == {"rate": 1.0}  # which learns the noise by heart
    assert (sweep.best().metric, sweep.best().hyper) == ("held_out_loss", {"rate": 0.03})
    assert "best: rate=0.03: held_out_loss" in repr(sweep)


REFUSED = {
    "a goal that cannot be known": (
        {"metric": "reward"}, "`goal` must be given with a metric that is no loss, got None for 'reward'. Write goal='max' if"),
    "nor in halving": ({"halving": gk.Halving(min_steps=2, metric="reward")}, "`goal` must be given with a metric"),
    "a goal of neither way": ({"goal": "lowest"}, "`goal` must be one of min, max, got 'lowest'"),
    "a metric of nothing": ({"metric": "rewards"}, "`metric` must be 'loss' or 'reward' without validation data, got 'rewards'"),
    "an axis of another space": ({"over": "folds"}, "`over` must be an axis of the space, one of learning_rate, fold"),
    "two metrics": (
        {"metric": "loss", "halving": gk.Halving(min_steps=2, metric="reward", goal="max")},
        "`metric` must be that of the halving, 'reward', got 'loss'. Name it once."),
    "two goals": (
        {"goal": "min", "halving": gk.Halving(min_steps=2, metric="reward", goal="max")},
        "`goal` must be that of the halving, 'max', got 'min'. Name it once."),
    "two axes": (
        {"over": "learning_rate", "halving": gk.Halving(min_steps=2, over="fold")},
        "`over` must be that of the halving, 'fold', got 'learning_rate'. Name it once."),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_question_that_cannot_be_answered_is_refused_before_anything_compiles(name, monkeypatch):
    monkeypatch.setattr(segment, "compiled", lambda program: pytest.fail("a program of the run was started"))
    settings, message = REFUSED[name]
    for call in (rewards, lambda **settings: gk.plan(rewarded, jnp.zeros(1), FOLDS, steps=20, **settings)):
        with pytest.raises(ValueError, match=f"^{message}"):
            call(**settings)


def test_a_plan_takes_the_question_of_its_sweep():
    settings = {"steps": 20, "halving": gk.Halving(min_steps=2), "plan": gk.Plan(width=4), **ASKED}
    plan = gk.plan(rewarded, jnp.zeros(1), FOLDS, **settings)
    assert rewards(**settings | {"plan": plan}).plan == plan
