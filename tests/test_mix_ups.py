"""Ways in which a run could go wrong silently: keys that meet, threads that forget settings, names and values that collide."""

import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import adam_net, init_net, net_loss, regression_data, same_bits

import gradkit as gk
from gradkit import settings
from gradkit.engine import chunk, plan

DATA = regression_data()
QUIET = {"progress": False}


@pytest.mark.long
def test_start_noise_and_draws_come_from_different_keys():
    """The squared distances of three normals drawn from what each is given: zero where two keys are one."""
    normal = lambda key: jax.random.normal(key, (3,))  # noqa: E731
    distance = lambda one, other: jnp.sum((one - other) ** 2)  # noqa: E731

    def loss(params, state, batch, key):
        noise = normal(key)
        distances = {
            "start_noise": distance(params, noise),
            "start_draw": distance(params, batch),
            "noise_draw": distance(noise, batch),
        }
        return distance(params, 0.0), (state, distances)

    starts = [normal, lambda key: normal(jax.random.split(key)[0]), lambda key: normal(jax.random.split(key, 5)[2])]
    for init in starts:
        make = lambda h, init=init: gk.descent(loss, init, optax.sgd(0.0), state=jnp.zeros(()))  # noqa: E731
        lone = gk.fit(make(None), gk.drawn(normal), steps=6, **QUIET)
        assert min(lone.history[name].min() for name in ("start_noise", "start_draw", "noise_draw")) > 0.01
        for order in ("shared", "per_seed"):
            sweep = gk.sweep(make, gk.drawn(normal), gk.grid(seed=range(4)), steps=6, order=order, **QUIET)
            for name in ("start_noise", "start_draw", "noise_draw"):
                assert min(fit.history[name].min() for fit in sweep) > 0.01, name
            assert len({float(fit.history["loss"][0]) for fit in sweep}) == 4


def test_a_seed_that_changes_only_what_no_loss_depends_on_still_counts():
    init = lambda key: init_net(jax.random.key(0)) | {"spare": jax.random.normal(key, (2,))}  # noqa: E731
    make = lambda h: gk.descent(net_loss, init, optax.sgd(h.learning_rate))  # noqa: E731
    sweep = gk.sweep(make, DATA, gk.grid(learning_rate=[0.1], seed=range(2)), steps=2, **QUIET)
    assert not same_bits(sweep.params(0)["spare"], sweep.params(1)["spare"])


def test_a_configuration_with_a_diverged_seed_loses_to_a_whole_one():
    """The rate is good for one seed of two, and the best of all there."""

    def make(h):
        rate = jnp.where((h.learning_rate > 0.05) & (h.seed == 1), 1e30, h.learning_rate)
        return gk.descent(net_loss, init_net, optax.sgd(rate))

    sweep = gk.sweep(make, DATA, gk.grid(learning_rate=[0.01, 0.1], seed=range(2)), steps=30, validation=DATA, **QUIET)
    assert [fit.status.name for fit in sweep] == ["FINISHED"] * 3 + ["DIVERGED"]
    assert sweep[2].metrics["validation_loss"] < min(sweep[0].metrics["validation_loss"], sweep[1].metrics["validation_loss"])
    assert sorted(sweep.best().members) == [0, 1]


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_keep_the_settings_of_their_caller(threads):
    seen = []

    def loss(params, batch):
        seen.append((threads, jax.config.jax_default_matmul_precision, params["bias"].dtype))
        return net_loss(params, batch)

    with settings.enable_x64(True), jax.default_matmul_precision("highest"):
        make = lambda h: gk.descent(loss, init_net, optax.sgd(h.learning_rate))  # noqa: E731
        space = gk.grid(learning_rate=[0.1, 0.2])
        sweep = gk.sweep(make, DATA, space, steps=5, plan=gk.Plan(width=1, threads=threads), **QUIET)
        assert {leaf.dtype for fit in sweep for leaf in jax.tree.leaves(fit.params)} == {np.dtype(np.float64)}
    assert set(seen) == {(threads, "highest", np.dtype(np.float64))}


def test_a_fit_before_and_after_a_change_of_precision(x64):
    descent = gk.descent(lambda p, batch: jnp.sum(p**2), lambda key: jnp.ones(3), optax.sgd(0.1))
    with settings.enable_x64(False):
        assert gk.fit(descent, jnp.zeros(4), steps=3, **QUIET).params.dtype == np.float32
    assert gk.fit(descent, jnp.zeros(4), steps=3, **QUIET).params.dtype == np.float64


def test_functions_of_one_name_are_different_configurations():
    make = lambda h: gk.descent(lambda p, b: h.scale(net_loss(p, b)), init_net, optax.sgd(0.001))  # noqa: E731
    space = gk.grid(scale=[lambda loss: loss, lambda loss: 100 * loss], seed=range(2))
    sweep = gk.sweep(make, DATA, space, steps=5, **QUIET)
    assert sorted(sweep.best().members) == [0, 1]
    assert "(2 configurations)" in repr(sweep)


def test_static_values_that_only_compare_equal_are_kept_apart():
    seen = []

    def make(h):
        seen.append(h.layers)
        return gk.descent(net_loss, init_net, optax.sgd(0.01 * h.layers[0]))

    gk.sweep(make, DATA, gk.grid(layers=gk.static([(1,), (1.0,)])), steps=2, **QUIET)
    assert {type(layers[0]) for layers in seen} == {int, float}


def test_a_metric_may_be_reported_in_training_and_in_validation():
    def loss(params, batch):
        return net_loss(params, batch), {"size": jnp.sum(params["out"] ** 2), "count": 3}

    evaluate = lambda params, batch: {"size": -jnp.sum(params["out"] ** 2)}  # noqa: E731
    make = lambda h: gk.descent(loss, init_net, optax.sgd(h.learning_rate))  # noqa: E731
    space = gk.grid(learning_rate=[0.01, 1e30])
    sweep = gk.sweep(make, DATA, space, steps=5, validation=DATA, evaluate=evaluate, **QUIET)
    curves = sweep.curves()
    assert {"train_size", "validation_size", "count"} <= set(curves)
    assert (curves.validation_size.dropna() <= 0).all()
    assert np.isnan(sweep[1].history["count"][-1])


def test_a_batch_size_of_none_prints_and_is_found_best():
    space = gk.grid(batch_size=[None, 8], learning_rate=[0.01, 0.1], seed=range(2))
    sweep = gk.sweep(adam_net, DATA, space, steps=30, validation=DATA, **QUIET)
    assert "batch_size=" in repr(sweep)
    assert {axis.name for axis in sweep.summary().axes} == {"learning_rate"}
    sweep.plot()


def test_a_lone_fit_takes_one_lane_on_many_accelerators():
    gpu = type("Gpu", (), {"platform": "gpu"})()
    settled = plan.settle(gk.Plan(width=1, threads=1, spans=False, devices=(gpu,) * 4))
    assert (settled.lanes(1), settled.spans) == (1, False)
    settled = plan.settle(gk.Plan(devices=(gpu,) * 4))
    assert settled == gk.Plan(None, 1, (gpu,) * 4, True) and plan.guess(settled, 100, 100) == 25


@pytest.mark.long
def test_forgotten_programs_free_what_they_held():
    alive = []
    for value in range(20):
        params = jnp.full((1000,), float(value))
        descent = gk.descent(lambda p, batch: jnp.sum(p**2), params, optax.sgd(0.1))
        alive.append(weakref.ref(descent.step))
        gk.fit(descent, jnp.zeros(1), steps=1, **QUIET)
        del descent, params
    gc.collect()
    assert sum(ref() is not None for ref in alive) <= 17


def test_an_error_in_one_chunk_stops_the_others(monkeypatch):
    calls, usual = [], chunk.settle

    def failing(part, flight, tickets, stop, tally):
        calls.append(stop)
        if part.members[0] == 1:
            raise RuntimeError("out of luck")
        usual(part, flight, tickets, stop, tally)

    monkeypatch.setattr(chunk, "settle", failing)
    with pytest.raises(RuntimeError, match="out of luck"):
        gk.sweep(
            adam_net, DATA, gk.grid(learning_rate=[0.1, 0.2, 0.3, 0.4]), steps=10**6, plan=gk.Plan(width=1, threads=2), **QUIET
        )
    assert len(calls) < 5000


@pytest.mark.few(1)
@pytest.mark.parametrize(
    "optimizer",
    [
        optax.lbfgs(),
        optax.MultiSteps(optax.chain(optax.adam(0.1), optax.contrib.reduce_on_plateau()), 2),
        optax.chain(optax.adam(0.01), optax.contrib.reduce_on_plateau()),
        optax.apply_if_finite(optax.sgd(0.1), 3),
        optax.contrib.schedule_free_adamw(0.01),
    ],
    ids=["lbfgs", "multi_steps", "plateau", "apply_if_finite", "schedule_free"],
)
def test_transformations_with_needs_of_their_own_descend(optimizer):
    fit = gk.fit(gk.descent(net_loss, init_net, optimizer), DATA, steps=20, **QUIET)
    assert fit.status == gk.Status.FINISHED
    assert fit.losses[-1] < fit.losses[0]


def test_data_are_on_the_device_once_for_all_programs(monkeypatch):
    from gradkit import requests

    residents, usual = [], requests.source

    def spying(*args, **settings):
        feed = usual(*args, **settings)
        residents.append(feed.resident[0].unsafe_buffer_pointer())
        return feed

    monkeypatch.setattr(requests, "source", spying)
    gk.sweep(adam_net, DATA, gk.grid(batch_size=[8, 16, None], learning_rate=[0.1]), steps=2, **QUIET)
    assert len(set(residents)) == 1


def test_two_sweeps_at_once_do_not_mix():
    from concurrent.futures import ThreadPoolExecutor

    run = functools.partial(gk.sweep, adam_net, DATA, gk.grid(learning_rate=[0.01, 0.1]), steps=50, batch_size=8, **QUIET)
    alone = run()
    with ThreadPoolExecutor(2) as pool:
        for together in [task.result() for task in [pool.submit(run), pool.submit(run)]]:
            assert same_bits([fit.params for fit in alone], [fit.params for fit in together])
