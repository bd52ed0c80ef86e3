"""Whatever is wrong is said before a run, by argument, rule, value and remedy; no program of the run is compiled."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import adam_net, init_net, net_loss, regression_data

import gradkit as gk
from gradkit.engine import segment

X, Y = regression_data()
SPACE = gk.grid(learning_rate=[0.01, 0.1])


def bare(function):
    """The function without the run-time type checks of the tests, which would speak before our own messages."""
    return inspect.unwrap(function)


def sweep(make=adam_net, data=(X, Y), space=SPACE, **settings):
    return bare(gk.sweep)(make, data, space, **({"steps": 5, "progress": False} | settings))


def fit(loss=net_loss, params=init_net, **settings):
    descent = gk.descent(loss, params, optax.sgd(0.1))
    return gk.fit(descent, settings.pop("data", (X, Y)), **({"steps": 5, "progress": False} | settings))


def fixed_net(h):
    return gk.descent(net_loss, init_net(jax.random.key(0)), optax.sgd(h.learning_rate))


def branching(h):
    return gk.descent(net_loss, init_net, optax.sgd(h.learning_rate if h.learning_rate < 1 else 1.0))


def growing(h):
    base = adam_net(h)
    return base._replace(step=lambda state, batch: (jax.tree.map(lambda leaf: leaf[None], state), *base.step(state, batch)[1:]))


def with_bad(array, value=np.nan):
    bad = array.copy()
    bad[3, 2] = bad[5, 1] = value
    return bad


CASES = {
    "an unknown hyper-parameter": (
        lambda: sweep(lambda h: gk.descent(net_loss, init_net, optax.sgd(h.lr))), AttributeError,
        "unknown hyper-parameter `lr`; known: learning_rate"),
    "an axis that nothing reads": (
        lambda: sweep(space=gk.grid(learning_rate=[0.1], momentum=[0.5, 0.9])), ValueError,
        "`space` must have only axes that make reads, got momentum. make reads learning_rate"),
    "a seed axis without effect": (
        lambda: sweep(fixed_net, space=gk.grid(learning_rate=[0.1], seed=range(3))), ValueError,
        "`seed` must change something, got 3 seeds for identical members"),
    "a seed axis without effect, though each has its order of whole batches": (
        lambda: sweep(fixed_net, space=gk.grid(learning_rate=[0.1], seed=range(3)), order="per_seed"), ValueError,
        "`seed` must change something"),
    "an order per seed without seeds": (
        lambda: sweep(order="per_seed", batch_size=8), ValueError, "`order` must be 'shared' without a seed axis"),
    "an axis with the name of a result": (
        lambda: sweep(space=gk.grid(learning_rate=[0.1], status=[1, 2])), ValueError,
        "`space` must bring only names that the results do not use themselves, got status. Rename it."),
    "a metric with the name of an axis": (
        lambda: sweep(validation=(X, Y), evaluate=lambda p, b: {"learning_rate": jnp.mean(b[1])}), ValueError,
        "`evaluate` must bring only names that the results do not use themselves, got learning_rate"),
    "a metric with the name of the validation loss": (
        lambda: sweep(validation=(X, Y), evaluate=lambda p, b: {"validation_loss": jnp.mean(b[1])}), ValueError,
        "`evaluate` must bring only names that the results do not use themselves, got validation_loss"),
    "a metric of the loss that is called loss": (
        lambda: fit(lambda p, b: (net_loss(p, b), {"loss": 1.0})), ValueError,
        "`loss_fn` must bring only names that the results do not use themselves, got loss"),
    "metrics that are no dict": (
        lambda: fit(validation=(X, Y), evaluate=lambda p, b: jnp.mean(b[1])), TypeError, "`evaluate` must return a dict"),
    "a width that is swept as a number": (
        lambda: sweep(lambda h: gk.descent(net_loss, lambda key: init_net(key, width=h.width), optax.sgd(0.1)),
                      space=gk.grid(width=[7, 8])), TypeError, r"must be traceable.*gk.static"),
    "a depth that is swept as a number": (
        lambda: sweep(lambda h: [None for _ in range(h.depth)], space=gk.grid(depth=[7, 8])), TypeError,
        r"must be traceable.*gk.static"),
    "complex parameters": (
        lambda: fit(lambda p, b: jnp.sum(jnp.abs(p) ** 2), jnp.zeros(2, jnp.complex64)), TypeError,
        "`params` must be floating.*two real ones"),
    "steps twice": (
        lambda: sweep(space=gk.grid(learning_rate=[0.1], steps=[5, 10])), ValueError,
        "`steps` must be an argument or an axis, not both, got 5"),
    "a batch size twice": (
        lambda: sweep(space=gk.grid(learning_rate=[0.1], batch_size=[5, 10]), batch_size=3), ValueError,
        "`batch_size` must be an argument or an axis, not both, got 3"),
    "no steps": (lambda: sweep(steps=None), TypeError, "`steps` must be a whole number of at least 1, got None"),
    "zero steps": (lambda: fit(steps=0), ValueError, "`steps` must be a whole number of at least 1, got 0"),
    "an empty space": (lambda: gk.grid(learning_rate=[]), ValueError, "learning_rate"),
    "a duplicate axis": (lambda: SPACE * SPACE, ValueError, "learning_rate"),
    "a word among numbers": (lambda: gk.grid(learning_rate=[0.1, "fast"]), Exception, "learning_rate.*static"),
    "a space that is none": (
        lambda: sweep(space={"learning_rate": [0.1]}), TypeError, "`space` must be a Space, got .*gk.grid"),
    "leaves of different lengths": (
        lambda: fit(data=(X, Y[:-1])), ValueError, r"`data` must have leaves of one length, got \[0\]: 96, \[1\]: 95"),
    "a batch larger than the data": (
        lambda: fit(batch_size=97), ValueError, "`batch_size` must be at most 96, the number of examples, got 97"),
    "non-finite data": (
        lambda: fit(data=(with_bad(X), Y)), ValueError, r"`data\[0\]` must be finite in float32, got 2 of 576 values"),
    "infinite validation data": (
        lambda: fit(validation=(with_bad(X, np.inf), Y)), ValueError, r"`validation\[0\]` must be finite"),
    "integer parameters": (
        lambda: fit(lambda p, b: jnp.sum(p["w"] ** 2.0), {"w": jnp.ones(3), "n": jnp.arange(3)}), TypeError,
        "`params.n` must be floating"),
    "a loss that returns a vector": (
        lambda: fit(lambda p, b: (b[0] @ p - b[1]) ** 2, jnp.ones(6)), TypeError,
        r"`loss_fn` must return a floating scalar, got float32 of shape \(96,\). Take the mean"),
    "a leaf without a gradient": (
        lambda: fit(lambda p, b: jnp.sum(p["w"]) + jax.lax.while_loop(lambda v: v < 9, lambda v: 2 * v, p["start"]),
                    {"w": jnp.ones(3), "start": jnp.ones(())}), TypeError,
        "`params.start` must have a gradient"),
    "a make that makes no descent": (
        lambda: sweep(lambda h: h.learning_rate), TypeError, "`make` must return a Descent"),
    "a make that branches on a swept value": (lambda: sweep(branching), TypeError, "must be traceable.*gk.schedules"),
    "an optax schedule of a swept horizon": (
        lambda: sweep(lambda h: gk.descent(net_loss, init_net, optax.sgd(optax.cosine_decay_schedule(0.1, h.horizon))),
                      space=gk.grid(horizon=[10, 20])), TypeError, "must be traceable.*gk.schedules"),
    "a state that changes shape": (
        lambda: sweep(growing), TypeError, r"`Descent.step: state.params.bias` must stay float32\[7\]"),
    "a descent that is a function": (
        lambda: bare(gk.fit)(net_loss, (X, Y), steps=5), TypeError, "`descent` must be a Descent.*gk.descent"),
    "an optimizer that is a rate": (
        lambda: bare(gk.descent)(net_loss, init_net, 0.1), TypeError,
        "`optimizer` must be an optax gradient transformation, got 0.1"),
    "a loss that is no function": (
        lambda: bare(gk.descent)(0.1, init_net, optax.sgd(0.1)), TypeError, "`loss_fn` must be a function"),
    "metrics without data": (
        lambda: fit(evaluate=lambda p, b: {}), ValueError, "`evaluate` must come with validation data, got none"),
    "evaluations without data": (
        lambda: fit(evaluate_every=3), ValueError, "`evaluate_every` must come with validation data, got none"),
    "a metric that is a vector": (
        lambda: fit(validation=(X, Y), evaluate=lambda p, b: {"errors": b[1]}), TypeError,
        r"`evaluate\['errors'\]` must be a scalar, got float32\[96\]"),
    "a plan that is a number": (lambda: sweep(plan=4), TypeError, r"`plan` must be a Plan, got 4. Write gk.Plan"),
    "a decay that ends within the warm-up": (
        lambda: gk.schedules.warmup_cosine(0.1, 200, 20), ValueError,
        "`decay_steps` must be above the 200 of the warm-up, got 20"),
    "a plan of no width": (
        lambda: sweep(plan=gk.Plan(width=0)), ValueError, "`plan.width` must be a whole number of at least 1, got 0"),
    "a plan of no device": (lambda: sweep(plan=gk.Plan(devices=())), ValueError, "`plan.devices` must name a device"),
    "a plan of half a thread": (
        lambda: sweep(plan=gk.Plan(threads=0.5)), TypeError, "`plan.threads` must be a whole number"),
    "a plan for another sweep": (
        lambda: sweep(plan=gk.plan(adam_net, (X, Y), gk.grid(learning_rate=[0.1, 0.2, 0.3]), steps=5, plan=gk.Plan(width=1))),
        ValueError, "`plan` must be made for these programs, members, .* got one for 3 members of program"),
    "a plan of a sweep that cannot be": (
        lambda: bare(gk.plan)(adam_net, (X, Y), SPACE, steps=0), ValueError, "`steps` must be a whole number of at least 1"),
    "a plan that is asked for a width of none": (
        lambda: gk.plan(adam_net, (X, Y), SPACE, steps=5, plan=gk.Plan(width=0)), ValueError,
        "`plan.width` must be a whole number of at least 1, got 0"),
    "a history of nothing": (
        lambda: sweep(history_every=0), ValueError, "`history_every` must be a whole number of at least 1, got 0"),
    "a history of half steps": (
        lambda: bare(gk.fit)(fixed_net(gk.Hyper({"learning_rate": 0.1})), (X, Y), steps=5, history_every=0.5), TypeError,
        "`history_every` must be a whole number of at least 1, got 0.5. 1 keeps every step"),
    "a halving that is a number": (
        lambda: sweep(halving=3), TypeError, "`halving` must be a Halving, got 3. Write gk.Halving"),
    "a halving that keeps all": (
        lambda: gk.Halving(eta=1, min_steps=10), ValueError, "`eta` must be a whole number of at least 2, got 1"),
    "a halving before the first step": (
        lambda: gk.Halving(min_steps=0), ValueError, "`min_steps` must be a whole number of at least 1, got 0"),
    "a halving at the end": (
        lambda: sweep(halving=gk.Halving(min_steps=5)), ValueError,
        "`halving.min_steps` must be below the number of steps, 5, got 5. Lower it"),
    "a halving of members of different lengths": (
        lambda: sweep(space=gk.grid(learning_rate=[0.1], steps=[5, 10]), steps=None, halving=gk.Halving(min_steps=2)), ValueError,
        "`halving` must come with one number of steps, got an axis of steps"),
    "a halving by what nothing reports": (
        lambda: sweep(validation=(X, Y), halving=gk.Halving(min_steps=2, metric="accuracy")), ValueError,
        "`halving.metric` must be one of loss, validation_loss, got 'accuracy'"),
    "a halving by validation data that are none": (
        lambda: sweep(halving=gk.Halving(min_steps=2, metric="validation_loss")), ValueError,
        "`halving.metric` must be 'loss' without validation data, got 'validation_loss'. Pass validation="),
    "an unknown order": (lambda: sweep(order="sorted"), ValueError, "`order` must be one of shared, per_seed, got 'sorted'"),
    "an iterator for two programs": (
        lambda: sweep(lambda h: gk.descent(net_loss, init_net, {"a": optax.sgd, "b": optax.adam}[h.kind](0.1)),
                      iter([(X, Y)]), gk.grid(kind=["a", "b"])), ValueError,
        "`data` must be drawn once per program, got an iterator for 2 programs"),
    "a stream that is empty": (lambda: fit(data=iter([])), ValueError, "`data` must yield at least one batch"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_before_anything_compiles(name, monkeypatch):
    monkeypatch.setattr(segment, "compiled", lambda program: pytest.fail("a program of the run was started"))
    call, error, message = CASES[name]
    with pytest.raises(error, match=f"(?s){message}"):
        call()


def test_unknown_metrics_and_goals_are_refused():
    result = sweep(steps=2)
    with pytest.raises(ValueError, match=r"`metric` must be one of .*final_loss.*, got 'accuracy'"):
        result.best("accuracy")
    with pytest.raises(ValueError, match=r"`metric` must be one of initial_loss, .*, got 'learning_rate'"):
        result.best("learning_rate")
    with pytest.raises(ValueError, match="`over` must be one of learning_rate, got 'seeds'"):
        result.best(over="seeds")
    with pytest.raises(ValueError, match="`goal` must be one of min, max, got 'lowest'"):
        result.best(goal="lowest")
    with pytest.raises(IndexError):
        result.replay(2)
