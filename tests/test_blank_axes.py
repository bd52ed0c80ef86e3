"""Axes that a member does not read are blank: joined spaces, products, and members that are therefore equal."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import init_net, net_loss, regression_data, same_bits

import gradkit as gk
from gradkit import requests
from gradkit.engine import segment

QUIET = {"progress": False}
DATA = regression_data()
SEEDS = gk.grid(seed=range(2))
JOINED = (gk.grid(optimizer=["sgd"], momentum=[0.5, 0.9]) + gk.grid(optimizer=["adam"], b2=[0.9, 0.99])) * SEEDS
PRODUCT = gk.grid(optimizer=["sgd", "adam"], momentum=[0.5, 0.9]) * SEEDS
RUN = {"steps": 12, "batch_size": 16, "plan": gk.Plan(width=2), **QUIET}


def as_asked(h):
    """Each optimizer reads what is its own."""
    if h.optimizer == "sgd":
        return gk.descent(net_loss, init_net, optax.sgd(0.05, momentum=h.momentum))
    return gk.descent(net_loss, init_net, optax.adam(0.01, b2=h.b2))


def from_a_dictionary(h):
    """All that is swept is read, whatever the optimizer; which of it matters, the program tells."""
    optimizers = {"sgd": optax.sgd(0.05, momentum=h.momentum), "adam": optax.adam(0.01)}
    return gk.descent(net_loss, init_net, optimizers[h.optimizer])


def prepared(make, space, **settings):
    """The programs of a sweep, abstractly: nothing compiles."""
    names = "key validation evaluate evaluate_every history_every metric goal over halving order plan"
    names = dict.fromkeys(names.split(" "))
    defaults = {"key": 0, "history_every": 1, "over": "seed", "order": "shared", "steps": 12, "batch_size": 16}
    return requests.prepare(requests.Request(make=make, data=DATA, space=space, **names | defaults | settings))


def test_spaces_with_different_axes_join_and_each_member_is_what_it_is_alone():
    sweep = gk.sweep(as_asked, DATA, JOINED, **RUN)
    table = sweep.table()
    np.testing.assert_array_equal(table.momentum, [0.5, 0.5, 0.9, 0.9] + [np.nan] * 4)
    np.testing.assert_array_equal(table.b2, [np.nan] * 4 + [0.9, 0.9, 0.99, 0.99])
    assert list(table.columns[:5]) == ["member", "optimizer", "momentum", "seed", "b2"]
    for space, first in ((JOINED.members[:4], 0), (JOINED.members[4:], 4)):
        own = gk.grid(**{name: list(dict.fromkeys(each[name] for each in space)) for name in space[0]})
        alone = gk.sweep(as_asked, DATA, own, **RUN)
        assert same_bits([fit.params for fit in alone], [fit.params for fit in sweep.fits[first : first + 4]])
    assert same_bits(sweep.replay(6).params, sweep.params(6))
    assert sweep.best().hyper.keys() <= {"optimizer", "momentum", "b2"} and len(sweep.best().members) == 2
    assert len(sweep.configurations()) == 4
    # what is said of an axis is said of the members that read it
    told = {axis.name: axis for axis in sweep.summary().axes}
    assert {value for axis in told.values() for value in axis.barely_moved} <= {0.5, 0.9, 0.99}
    assert "nan" not in repr(sweep) and "note:" not in repr(sweep) and "extend" not in repr(sweep)
    assert sweep.plot(axis="momentum").axes[0].lines[0].get_xdata().tolist() == [0.5, 0.9]
    assert sweep.plot().axes[0].get_xlabel() == "optimizer"


def test_reading_an_axis_that_is_blank_names_it():
    with pytest.raises(AttributeError, match="unknown hyper-parameter `b2`; known: momentum, seed, optimizer"):
        gk.sweep(lambda h: gk.descent(net_loss, init_net, optax.sgd(h.b2)), DATA, JOINED, **RUN)


def test_equal_members_of_a_product_run_once_and_share_their_fit():
    sweep = gk.sweep(from_a_dictionary, DATA, PRODUCT, **RUN)
    table = sweep.table()
    np.testing.assert_array_equal(table.momentum, [0.5, 0.5, 0.9, 0.9] + [np.nan] * 4)
    assert table.seed.tolist() == [0, 1] * 4 and table.member.tolist() == list(range(8))
    assert [program.num_members for program in sweep.plan.programs] == [4, 2]
    assert sweep[6] is sweep[4] and sweep[7] is sweep[5] and sweep[5] is not sweep[4]
    assert not same_bits(sweep.params(4), sweep.params(5))
    assert same_bits(sweep.replay(7).params, sweep.params(5))
    assert sweep.configurations() == [(0, 1), (2, 3), (4, 5)]
    losses = table.final_loss[[4, 5]]
    best = sweep.best("final_loss") if losses.mean() < table.final_loss[:4].mean() else None
    if best is not None and best.hyper == {"optimizer": "adam"}:
        assert best.std == pytest.approx(losses.std())
    note = "momentum: blank for members whose program does not read it; 2 of the 8 members equal others in all they read"
    assert sweep.notes[0].startswith(note) and note in repr(sweep)
    curves = sweep.curves()
    assert curves[curves.member == 7].loss.equals(curves[curves.member == 5].loss.set_axis(curves.index[curves.member == 7]))
    assert sweep.plot(axis="momentum") and sweep.plot()
    assert sweep.summary().num_configurations == 3


def test_the_best_of_a_summary_is_the_best_where_members_share_runs():
    def make(h):
        return gk.descent(net_loss, init_net, optax.adam(0.01, b2=h.b2) if h.optimizer == "adam" else optax.sgd(0.001))

    sweep = gk.sweep(make, DATA, gk.grid(optimizer=["sgd", "adam"], b2=[0.9, 0.99, 0.999]), **RUN)
    assert len(set(sweep.run_by)) == 4
    assert sweep.summary(goal="max", metric="final_loss").best == sweep.best(goal="max", metric="final_loss")
    best = sweep.summary().best
    assert best == sweep.best() and sweep.hyper[best.member] | best.hyper == sweep.hyper[best.member]


@pytest.mark.long
def test_sweeps_know_whether_their_seeds_saw_the_same_batches():
    def shared(**settings):
        return gk.sweep(from_a_dictionary, DATA, PRODUCT, **RUN | {"steps": 2} | settings).has_shared_batches

    assert [shared(), shared(order="per_seed"), shared(batch_size=None)] == [True, False, False]


@pytest.mark.parametrize("order", ["shared", "per_seed"])
def test_equal_members_are_halved_together_and_seeds_still_differ(order):
    settings = RUN | {"steps": 24, "order": order}
    halving = gk.Halving(eta=2, min_steps=6)
    sweep = gk.sweep(from_a_dictionary, DATA, PRODUCT, halving=halving, **settings)
    whole = gk.sweep(from_a_dictionary, DATA, PRODUCT, **settings)
    assert sweep.rungs.configurations[0] == 3 and sweep.rungs.members[0] == 6
    means = [np.mean([whole[i].history["loss"][5] for i in each]) for each in sweep.configurations()]
    kept = sweep.configurations()[int(np.argmin(means))]
    assert {i for i, fit in enumerate(sweep) if fit.rung == 0} == {i for i in range(8) if sweep.run_by[i] in kept}
    assert sweep[4] is sweep[6] and sweep[4].history["loss"][0] != sweep[5].history["loss"][0]
    for member in (kept[0], 7):
        assert same_bits(sweep.replay(member).params, sweep.params(member))


def test_static_axes_that_a_program_does_not_read_do_not_split_it():
    def make(h):
        if h.optimizer == "adam":
            return gk.descent(net_loss, init_net, optax.adam(0.01))
        return gk.descent(net_loss, init_net, optax.sgd(0.05, momentum=0.9, nesterov=h.nesterov))

    found = prepared(make, gk.grid(optimizer=["adam", "sgd"], nesterov=[True, False]))
    assert found.names == ["optimizer='adam'", "optimizer='sgd', nesterov=True", "optimizer='sgd', nesterov=False"]
    assert found.found.run_by == (0, 0, 2, 3) and found.found.hyper[1] == {"optimizer": "adam"}


def test_seeds_are_blank_where_the_key_changes_nothing():
    def make(h):
        start = init_net if h.start == "drawn" else init_net(jax.random.key(3))
        return gk.descent(net_loss, start, optax.sgd(h.learning_rate))

    space = gk.grid(start=["fixed", "drawn"], learning_rate=[0.01, 0.1], seed=range(3))
    found = prepared(make, space)
    assert found.configurations == [(0,), (3,), (6, 7, 8), (9, 10, 11)]
    assert ["seed" in hyper for hyper in found.found.hyper] == [False] * 6 + [True] * 6
    assert len(prepared(make, space, order="per_seed").found.own) == 12


def test_steps_and_batch_sizes_may_be_given_to_some_members_only():
    space = gk.grid(learning_rate=[0.1], steps=[3, 5]) + gk.grid(learning_rate=[0.1], batch_size=[8])
    make = lambda h: gk.descent(net_loss, init_net, optax.sgd(h.learning_rate))  # noqa: E731
    sweep = gk.sweep(make, DATA, space, **(RUN | {"steps": 4, "batch_size": None}))
    assert sweep.table().steps_made.tolist() == [3, 5, 4]
    np.testing.assert_array_equal(sweep.table().batch_size, [np.nan, np.nan, 8])
    assert sweep[0].history["loss"][0] == sweep[1].history["loss"][0] != sweep[2].history["loss"][0]


def test_a_lone_seed_stays_as_it_was_written():
    make = lambda h: gk.descent(net_loss, init_net(jax.random.key(3)), optax.sgd(h.learning_rate))  # noqa: E731
    found = prepared(make, gk.grid(learning_rate=[0.1], seed=[3])).found
    assert found.hyper == ({"learning_rate": 0.1, "seed": 3},) and not found.note()


def test_members_that_were_written_twice_run_once_and_are_no_replicates():
    make = lambda h: gk.descent(net_loss, init_net, optax.sgd(h.learning_rate))  # noqa: E731
    for space in (gk.grid(learning_rate=[0.1, 0.1, 0.2]), gk.grid(learning_rate=[0.1]) + gk.grid(learning_rate=[0.1, 0.2])):
        found = prepared(make, space).found
        assert found.run_by == (0, 0, 2)
        assert found.note() == ["1 of the 3 members equal others in all they read, and share their run"]
    sweep = gk.sweep(make, DATA, space, steps=3, progress=False)
    assert len(sweep) == 3 and sweep[0].losses.tolist() == sweep[1].losses.tolist()
    assert "one member per value does not show the noise" in str(sweep)
    assert sweep.best(over=None).members == (2,)


@pytest.mark.parametrize(
    ("make", "space", "settings", "message"),
    [
        (lambda h: gk.descent(net_loss, init_net, optax.adam(0.1 + 0 * len(str(h.momentum)))), gk.grid(momentum=[0.5, 0.9]), {},
         "`space` must have only axes that change something, got momentum. make reads it, but nothing"),
        (as_asked, JOINED * gk.grid(rate=[0.1]), {}, "`space` must have only axes that make reads, got rate"),
        (as_asked, gk.grid(optimizer=["sgd"], momentum=[0.5]) * SEEDS + gk.grid(optimizer=["adam"], b2=[0.9]),
         {"order": "per_seed"}, "`order` must be 'shared' without a seed axis, got 'per_seed'"),
        (as_asked, gk.grid(optimizer=["sgd"], momentum=[0.5], steps=[3]) + gk.grid(optimizer=["adam"], b2=[0.9]),
         {"steps": None}, "`steps` must be a whole number of at least 1, got None"),
    ],
)  # fmt: skip
def test_axes_that_no_member_reads_are_refused_before_anything_compiles(make, space, settings, message, monkeypatch):
    monkeypatch.setattr(segment, "compiled", lambda program: pytest.fail("a program of the run was started"))
    with pytest.raises((ValueError, TypeError), match=f"^{message}"):
        gk.sweep(make, DATA, space, **RUN | settings)


def test_what_reaches_only_the_evaluation_counts_as_read():
    def make(h):
        base = gk.descent(net_loss, init_net, optax.sgd(0.1))
        return base._replace(loss=lambda params, batch: h.scale * base.loss(params, batch))

    sweep = gk.sweep(make, DATA, gk.grid(scale=[1.0, 2.0]), validation=DATA, **RUN)
    losses = sweep.table().validation_loss
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-5) and jnp.isfinite(losses[0])
