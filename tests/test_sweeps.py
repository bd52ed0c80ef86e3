"""What a person gets from fit and sweep: one program, any optax chain, streams, static groups, results that read well."""

import os
import signal

import chex
import flax.nnx as nnx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import adam_net, apply_net, descend_quadratic, errors, init_net, net_loss, regression_data, same_bits

import gradkit as gk
from gradkit.engine import chunk, runs

DATA = regression_data()
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def swept():
    """Rates from useless to absurd, two seeds, with validation."""
    space = gk.grid(learning_rate=[1e-6, 1e-3, 0.03, 1e30], seed=range(2))
    train, held_out = tuple(a[:64] for a in DATA), tuple(a[64:] for a in DATA)
    return gk.sweep(
        adam_net, train, space, steps=60, batch_size=16, validation=held_out, evaluate=errors, evaluate_every=25, **QUIET
    )


def compilations(run):
    """How many programs XLA compiles while ``run`` runs."""
    events = []
    listener = lambda event, duration, **kwargs: events.append(event) if "backend_compile" in event else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        run()
    finally:
        jax.monitoring.clear_event_listeners()
    return len(events)


def test_new_rates_with_the_same_make_trace_and_compile_nothing():
    traces = []

    def loss(params, batch):
        traces.append(1)
        return net_loss(params, batch)

    make = lambda h: gk.descent(loss, init_net, optax.adam(h.learning_rate))  # noqa: E731
    run = lambda *rates: gk.sweep(make, DATA, gk.grid(learning_rate=rates), steps=7, batch_size=8, **QUIET)  # noqa: E731
    assert compilations(lambda: run(0.1, 0.2, 0.3)) > 0
    num_traces = len(traces)
    assert compilations(lambda: run(0.4, 0.5, 0.6)) == 0
    assert len(traces) == num_traces


def test_a_schedule_a_clip_and_a_chain_are_swept_together_in_one_program():
    calls = []

    def make(h):
        calls.append(1)
        rate = gk.schedules.warmup_cosine(h.peak, h.warmup, h.decay)
        chain = optax.chain(optax.clip_by_global_norm(h.clip), gk.optimizers.adamw(rate, b1=h.b1, weight_decay=h.weight_decay))
        return gk.descent(net_loss, init_net(jax.random.key(0)), chain)

    space = gk.sample(
        6, peak=gk.log_uniform(1e-3, 0.1), warmup=gk.choice([2, 5]), decay=gk.choice([30, 50]), b1=gk.uniform(0.8, 0.95),
        clip=gk.log_uniform(0.1, 10), weight_decay=gk.log_uniform(1e-5, 1e-2),
    )  # fmt: skip
    sweep = gk.sweep(make, DATA, space, steps=40, batch_size=16, plan=gk.Plan(width=3), **QUIET)
    assert len(calls) < 20  # per program, not per member
    for member in (0, 5):
        h = gk.Hyper(space[member])
        rate = optax.warmup_cosine_decay_schedule(0.0, h.peak, h.warmup, h.decay)
        chain = optax.chain(optax.clip_by_global_norm(h.clip), optax.adamw(rate, b1=h.b1, weight_decay=h.weight_decay))
        lone = gk.fit(gk.descent(net_loss, init_net(jax.random.key(0)), chain), DATA, steps=40, batch_size=16, **QUIET)
        chex.assert_trees_all_close(sweep.params(member), lone.params, rtol=1e-3, atol=1e-4)


def test_statuses_metrics_and_histories_say_what_happened(swept):
    statuses = [fit.status.name for fit in swept]
    assert statuses == ["FINISHED"] * 6 + ["DIVERGED"] * 2
    fit = swept[4]
    assert fit.history["loss"].shape == (60,)
    assert fit.evaluations["step"].tolist() == [0, 25, 50, 60]
    assert fit.metrics.keys() == {"validation_loss", "mean_error"}
    held_out = tuple(a[64:] for a in DATA)
    assert fit.metrics["validation_loss"] == pytest.approx(float(net_loss(swept.params(4), held_out)), rel=1e-5)
    assert fit.metrics["mean_error"] == pytest.approx(float(errors(swept.params(4), held_out)["mean_error"]), rel=1e-5)
    assert swept[6].steps < 5
    assert "rests at its last finite state" in swept[6].status.message
    chex.assert_tree_all_finite(swept.params(6))


def test_best_averages_over_seeds_and_never_takes_a_diverged_member(swept):
    best = swept.best()
    assert (best.hyper, best.metric, sorted(best.members)) == ({"learning_rate": 0.03}, "validation_loss", [4, 5])
    values = [swept[4].metrics["validation_loss"], swept[5].metrics["validation_loss"]]
    assert best.mean == pytest.approx(np.mean(values))
    assert best.std == pytest.approx(np.std(values, ddof=1))
    assert best.member == 4 + int(np.argmin(values))
    assert swept.best("mean_error", goal="max").hyper["learning_rate"] == 1e-6
    assert swept.best(over=None).members == (best.member,)


def test_table_and_curves_hold_every_member(swept):
    table, curves = swept.table(), swept.curves()
    assert len(table) == len(swept) == 8
    assert table.learning_rate.tolist() == [1e-6] * 2 + [1e-3] * 2 + [0.03] * 2 + [1e30] * 2
    assert len(curves) == 8 * 61
    of_four = curves[curves.member == 4].set_index("step")
    assert of_four.loss.iloc[:60].tolist() == pytest.approx(swept[4].history["loss"].tolist())
    assert of_four.validation_loss.dropna().index.tolist() == [0, 25, 50, 60]


def test_the_summary_names_range_divergence_and_standstill(swept):
    summary = swept.summary()
    (axis,) = summary.axes
    assert (axis.best, axis.diverged, axis.barely_moved, axis.edge) == (0.03, (1e30,), (1e-6,), None)
    assert summary.share_diverged == 0.25
    text = repr(swept)
    for words in (
        "8 members (4 configurations)",
        "6 finished, 2 diverged",
        "best: learning_rate=0.03",
        "diverged at 1e+30",
        "inside the range",
    ):
        assert words in text


def test_a_best_value_at_the_edge_is_said():
    sweep = gk.sweep(adam_net, DATA, gk.grid(learning_rate=[1e-4, 1e-3, 1e-2], seed=[0, 1]), steps=30, **QUIET)
    assert sweep.summary().axes[0].edge == "upper"
    assert "upper edge of the range: extend it beyond 0.01" in repr(sweep)


def test_a_sweep_in_which_nothing_finished_still_prints():
    space = gk.grid(learning_rate=[1e25, 1e30])
    sweep = gk.sweep(descend_quadratic, jnp.zeros(1), space, steps=20, **QUIET)
    assert "none finished" in repr(sweep)
    assert "lower the learning rates" in repr(sweep)
    with pytest.raises(ValueError, match="`sweep` must have a member that finished, got 2 diverged"):
        sweep.best()


def test_a_sweep_in_which_nothing_improved_says_so():
    def tell(*rates):
        space = gk.grid(learning_rate=rates)
        return repr(gk.sweep(descend_quadratic, jnp.zeros(1), space, steps=5, validation=jnp.zeros(1), **QUIET))

    for text, words in (
        (
            tell(1e-12, 1e-11),
            ("100% ended about where they began, 0% worse", "barely moved, or ended about where they began, at 1e-12"),
        ),
        (tell(0.5, 0.7), ("0% ended about where they began, 100% worse", "ended worse than they began at 0.5, 0.7")),
    ):
        assert all(part in text for part in (*words, "no configuration improved on its start", "learning_rate: nothing works"))
        assert "extend" not in text
        assert "works from" not in text


def test_the_last_loss_of_batches_is_a_mean_over_the_last_of_them():
    sweep = gk.sweep(adam_net, DATA, gk.grid(learning_rate=[0.01]), steps=100, batch_size=8, **QUIET)
    assert sweep.table().final_loss[0] == pytest.approx(sweep[0].history["loss"][-5:].mean(), rel=1e-6)


def test_the_plot_shows_rate_and_curves(swept, tmp_path):
    figure = swept.plot()
    figure.savefig(tmp_path / "sweep.png")
    assert figure.axes[0].get_xlabel() == "learning_rate"
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_the_plot_stands_for_the_best_of_several_axes_and_takes_words():
    def make(h):
        return gk.descent(net_loss, init_net, {"sgd": optax.sgd, "adam": optax.adam}[h.optimizer](h.learning_rate))

    space = gk.grid(optimizer=["sgd", "adam"], learning_rate=[0.003, 0.03, 0.3], seed=range(2))
    sweep = gk.sweep(make, DATA, space, steps=30, validation=DATA, **QUIET)
    lines = {line.get_label(): line.get_ydata() for line in sweep.plot().axes[0].lines}
    table = sweep.table().groupby(["learning_rate", "optimizer"]).validation_loss.mean()
    assert lines["best"].tolist() == pytest.approx(table.groupby("learning_rate").min().tolist())
    words = sweep.plot(axis="optimizer").axes[0]
    assert [label.get_text() for label in words.get_xticklabels()] == ["adam", "sgd"]
    with pytest.raises(ValueError, match="`axis` must be one of optimizer, learning_rate, got 'seed'"):
        sweep.plot(axis="seed")


def test_a_random_sample_is_drawn_as_points_and_has_no_ranges():
    make = lambda h: gk.descent(net_loss, init_net, gk.optimizers.momentum(h.learning_rate, momentum=h.momentum))  # noqa: E731
    space = gk.sample(8, learning_rate=gk.log_uniform(1e-3, 0.1), momentum=gk.uniform(0.0, 0.9))
    sweep = gk.sweep(make, DATA, space, steps=30, batch_size=16, **QUIET)
    assert sweep.summary().axes == ()
    points = sweep.plot().axes[0].lines[0]
    assert (points.get_label(), points.get_linestyle(), len(points.get_xdata())) == ("configurations", "None", 8)


def test_a_stream_gives_what_the_arrays_give_in_the_same_order():
    arrays = gk.sweep(adam_net, DATA, gk.grid(learning_rate=[0.01, 0.1, 0.03]), steps=120, batch_size=8, **QUIET)
    order = gk.data.source(DATA, batch_size=8, key=0, per_seed=False).tickets(None, 0, 120)
    batches = lambda start: (tuple(a[rows] for a in DATA) for rows in order[start:])  # noqa: E731
    for data in (batches(0), gk.stream(batches)):
        streamed = gk.sweep(adam_net, data, gk.grid(learning_rate=[0.01, 0.1, 0.03]), steps=120, **QUIET)
        assert same_bits([fit.params for fit in arrays], [fit.params for fit in streamed])
    assert same_bits(streamed.replay(1).params, arrays.params(1))


def test_a_stream_that_ends_early_keeps_what_was_done_and_says_why():
    order = gk.data.source(DATA, batch_size=8, key=0, per_seed=False).tickets(None, 0, 20)
    batches = (tuple(a[rows] for a in DATA) for rows in order)
    sweep = gk.sweep(adam_net, batches, gk.grid(learning_rate=[0.01, 0.1]), steps=50, validation=DATA, **QUIET)
    assert [(fit.status.name, fit.steps) for fit in sweep] == [("STOPPED", 20)] * 2
    assert sweep.notes == ("the stream ended after 20 batches: it has no more",)
    whole = gk.sweep(adam_net, DATA, gk.grid(learning_rate=[0.01, 0.1]), steps=20, batch_size=8, **QUIET)
    assert same_bits([fit.params for fit in sweep], [fit.params for fit in whole])
    with pytest.raises(ValueError, match="`data` must be drawn again for a replay, got a plain iterable"):
        sweep.replay(0)


def test_batches_can_be_drawn_on_the_device():
    draw = lambda key: jax.random.normal(key, (32,))  # noqa: E731
    mean = gk.descent(lambda m, batch: jnp.mean((m - 2.0 - batch) ** 2), jnp.zeros(()), optax.sgd(0.02))
    fit = gk.fit(mean, gk.drawn(draw), steps=300, **QUIET)
    assert float(fit.params) == pytest.approx(2.0, abs=0.1)
    assert len(np.unique(fit.history["loss"])) == 300


def test_an_order_per_seed_makes_seeds_differ_where_the_start_does_not():
    make = lambda h: gk.descent(net_loss, init_net(jax.random.key(0)), optax.sgd(h.learning_rate))  # noqa: E731
    space = gk.grid(learning_rate=[0.01, 0.1], seed=range(3))
    by_width = [
        gk.sweep(make, DATA, space, steps=25, batch_size=8, order="per_seed", plan=gk.Plan(width=width), **QUIET)
        for width in (1, 3)
    ]
    first = [fit.history["loss"][0] for fit in by_width[0]]
    assert first[:3] == first[3:]
    assert len(set(first)) == 3
    np.testing.assert_allclose([f.losses[-1] for f in by_width[1]], [f.losses[-1] for f in by_width[0]], rtol=1e-4)
    assert same_bits(by_width[1].replay(4).params, by_width[1].params(4))


def test_static_axes_steps_and_batch_sizes_split_a_sweep_into_programs():
    def make(h):
        optimizer = {"sgd": optax.sgd, "adam": optax.adam}[h.optimizer]
        return gk.descent(net_loss, init_net, optimizer(h.learning_rate))

    space = gk.zipped(steps=[10, 20], batch_size=[None, 8]) * gk.grid(optimizer=["sgd", "adam"], learning_rate=[0.01, 0.02])
    sweep = gk.sweep(make, DATA, space, **QUIET)
    assert [fit.steps for fit in sweep] == [10] * 4 + [20] * 4
    for member in (0, 7):
        hyper = sweep.hyper[member]
        steps, size = hyper["steps"], hyper["batch_size"]
        alone = gk.sweep(make, DATA, gk.grid(optimizer=[hyper["optimizer"]], learning_rate=[hyper["learning_rate"]]),
                         steps=steps, batch_size=size, plan=gk.Plan(width=1), **QUIET)  # fmt: skip
        chex.assert_trees_all_close(alone.params(0), sweep.params(member), rtol=1e-5, atol=1e-6)
    assert set(sweep.table().optimizer) == {"sgd", "adam"}


class Net(nnx.Module):
    """Batch norm and dropout, as people write it."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(6, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.out = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, inputs):
        return self.out(self.dropout(nnx.relu(self.norm(self.hidden(inputs)))))[:, 0]


def test_an_nnx_module_with_batch_norm_and_dropout_is_swept_over_rates_and_seeds():
    def make(h):
        return gk.models.descent(lambda key: Net(nnx.Rngs(key)), gk.losses.squared, optax.adam(h.learning_rate))

    space = gk.grid(learning_rate=[0.003, 0.03], seed=range(2))
    sweep = gk.sweep(make, DATA, space, steps=60, batch_size=16, validation=DATA, plan=gk.Plan(width=4), **QUIET)
    table = sweep.table()
    assert (table.validation_loss < table.initial_validation_loss).all()
    assert table.validation_loss.nunique() == 4
    statistics = jax.tree.leaves(sweep.params(3).state)
    chex.assert_tree_all_finite(statistics)
    assert same_bits(sweep.replay(2).params, sweep.params(2))


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_interrupt_returns_what_there_is(is_streamed, monkeypatch):
    """Ctrl-C arrives while the first of two groups runs: its segment is finished, the second never begins."""
    usual, sent = chunk.settle, []

    def settle_then_interrupt(part, flight, tickets, stop, tally):
        usual(part, flight, tickets, stop, tally)
        if stop >= 100 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    def make(h):
        optimizer = {"adam": optax.adam, "sgd": optax.sgd}[h.optimizer]
        return gk.descent(net_loss, init_net, optimizer(0.01))

    monkeypatch.setattr(chunk, "settle", settle_then_interrupt)
    monkeypatch.setattr(runs.Pace, "steps", lambda self, width: 50)
    order = gk.data.source(DATA, batch_size=8, key=0, per_seed=False).tickets(None, 0, 1000)
    batches = gk.stream(lambda start: (tuple(a[rows] for a in DATA) for rows in order[start:]))
    data, size, steps = (batches, None, 1000) if is_streamed else (DATA, 8, 10**6)
    sweep = gk.sweep(
        make, data, gk.grid(optimizer=["adam", "sgd"]), steps=steps, batch_size=size, plan=gk.Plan(threads=1), **QUIET
    )
    assert [fit.status.name for fit in sweep] == ["STOPPED", "STOPPED"]
    assert 100 <= sweep[0].steps < steps
    assert (sweep[1].steps, sweep[1].params) == (0, None)
    assert np.isfinite(sweep[0].losses).all()
    assert "2 stopped" in repr(sweep)
    again = sweep.replay(0)
    assert (again.status, again.steps) == (sweep[0].status, sweep[0].steps)
    assert same_bits((again.params, again.losses), (sweep[0].params, sweep[0].losses)) and again.state is not None
    with pytest.raises(ValueError, match=r"`member` must have made steps that can be repeated, got none\. sweep"):
        sweep.replay(1)


def counted_adam(optimizer=optax.adam):
    """A make of its own, and how often its loss was traced."""
    traces = []

    def loss(params, batch):
        traces.append(1)
        return net_loss(params, batch)

    return lambda h: gk.descent(loss, init_net, optimizer(h.learning_rate)), traces


def test_members_that_differ_in_their_steps_share_one_program_and_are_the_lone_runs_of_as_many():
    make, traces = counted_adam()
    run = lambda space, **settings: gk.sweep(make, DATA, space, batch_size=16, plan=gk.Plan(width=1), **settings, **QUIET)  # noqa: E731
    steps = [7, 40, 17, 1, 33]
    space = gk.grid(learning_rate=[0.01, 0.03]) * gk.grid(steps=steps)
    sweep = run(space)
    num_traces = len(traces)
    assert len(sweep.plan.programs) == 1
    assert sweep.table().steps_made.tolist() == steps * 2
    assert {fit.status for fit in sweep} == {gk.Status.FINISHED}
    for member, fit in enumerate(sweep):
        assert fit.history["loss"].shape == (40,) and np.isnan(fit.history["loss"][fit.steps :]).all()
        lone = run(gk.grid(learning_rate=[space[member]["learning_rate"]]), steps=fit.steps)
        assert same_bits(lone.params(0), sweep.params(member))
        assert same_bits(lone[0].history["loss"], fit.history["loss"][: fit.steps])
    assert compilations(lambda: run(gk.grid(learning_rate=[0.02], steps=[39, 40, 33]))) == 0
    by_four = gk.sweep(make, DATA, space, batch_size=16, plan=gk.Plan(width=4), **QUIET)
    assert by_four.table().steps_made.tolist() == steps * 2
    chex.assert_trees_all_close([fit.params for fit in by_four], [fit.params for fit in sweep], rtol=1e-3, atol=1e-5)
    assert same_bits(by_four.replay(3).params, by_four.params(3)) and by_four.replay(3).steps == 1
    assert num_traces < 12  # for ten members of five lengths


def test_the_horizon_of_a_schedule_may_be_the_steps_of_each_member():
    def make(h):
        return gk.descent(net_loss, init_net, optax.sgd(gk.schedules.cosine(h.learning_rate, h.steps)))

    space = gk.grid(learning_rate=[0.3], steps=[10, 25, 40])
    sweep = gk.sweep(make, DATA, space, plan=gk.Plan(width=3), **QUIET)
    assert len(sweep.plan.programs) == 1
    for member, steps in enumerate([10, 25, 40]):
        known = gk.descent(net_loss, init_net, optax.sgd(optax.cosine_decay_schedule(0.3, steps)))
        lone = gk.fit(known, DATA, steps=steps, **QUIET)
        chex.assert_trees_all_close(sweep.params(member), lone.params, rtol=1e-4, atol=1e-6)


def test_static_steps_split_a_sweep_and_programs_that_are_equal_are_compiled_once():
    make, _ = counted_adam()
    run = lambda space: gk.sweep(make, DATA, space, batch_size=8, plan=gk.Plan(width=2), **QUIET)  # noqa: E731
    num_compiled = compilations(lambda: run(gk.grid(steps=gk.static([20]), learning_rate=[0.01, 0.1])))
    sweep = None

    def run_two():
        nonlocal sweep
        sweep = run(gk.grid(steps=gk.static([20, 30]), learning_rate=[0.01, 0.1]))

    assert num_compiled > 0 == compilations(run_two)
    assert [program.name for program in sweep.plan.programs] == ["steps=20", "steps=30"]
    assert sweep.table().steps_made.tolist() == [20, 20, 30, 30]
    assert same_bits(sweep[0].history["loss"], sweep[2].history["loss"][:20])

    def by_depth(h):
        calls.append(h.steps)
        return gk.descent(net_loss, init_net, optax.sgd(h.learning_rate / len(range(h.steps))))

    calls = []
    sweep = gk.sweep(by_depth, DATA, gk.grid(steps=gk.static([3, 4]), learning_rate=[0.1]), **QUIET)
    assert set(calls) == {3, 4}
    assert len(sweep.plan.programs) == 2


@pytest.mark.parametrize("every", [3, 7, 60, 100])
def test_a_thinned_history_keeps_every_so_many_steps(every):
    settings = {"steps": 60, "batch_size": 16, "validation": DATA, "evaluate_every": 10, "plan": gk.Plan(width=3), **QUIET}
    space = gk.grid(learning_rate=[0.01, 1e30, 0.1])
    whole = gk.sweep(adam_net, DATA, space, **settings)
    thin = gk.sweep(adam_net, DATA, space, history_every=every, **settings)
    for one, other in zip(whole, thin):
        assert (other.every, other.steps, other.status) == (every, one.steps, one.status)
        assert same_bits(other.history["loss"], one.history["loss"][::every])
        assert same_bits(other.params, one.params)
        assert same_bits(other.evaluations, one.evaluations)
    rows = thin.curves()
    assert rows[rows.member == 2].set_index("step").loss.dropna().index.tolist() == list(range(0, 60, every))
    assert same_bits(thin.replay(2).history, thin[2].history)
    assert np.isfinite(thin.table().final_loss[2])
    lone = gk.fit(gk.descent(net_loss, init_net, optax.sgd(0.1)), DATA, steps=60, history_every=every, **QUIET)
    assert lone.history["loss"].shape == (-(-60 // every),)


@pytest.mark.parametrize("num_steps", [1, 7])
def test_where_segments_end_changes_no_bit(num_steps, monkeypatch):
    """The clock decides how long a segment is; it must not decide anything else."""
    space = gk.grid(learning_rate=[0.003, 0.03, 1e30, 0.1], seed=range(2))
    run = lambda: gk.sweep(adam_net, DATA, space, steps=50, batch_size=8, plan=gk.Plan(width=4), **QUIET)  # noqa: E731
    usual, lengths, expected = chunk.launch, [], run()
    monkeypatch.setattr(runs, "DISPATCH_SECONDS", 1e-12)
    monkeypatch.setattr(runs, "FIRST_STEPS", num_steps)
    monkeypatch.setattr(chunk, "launch", lambda *args: (lengths.append(args[-1]), usual(*args))[1])
    found = run()
    assert len(lengths) >= 2 * 44 and set(lengths) <= {1, num_steps}
    assert [fit.status for fit in found] == [fit.status for fit in expected]
    assert same_bits([fit.params for fit in found], [fit.params for fit in expected])
    assert same_bits([fit.history for fit in found], [fit.history for fit in expected])
    assert same_bits(found.replay(6).params, expected.params(6))


@pytest.mark.parametrize("is_plain", [False, True])
def test_batches_drawn_ahead_come_in_order_each_once_and_none_too_many(is_plain, monkeypatch):
    monkeypatch.setattr(runs.Pace, "steps", lambda self, width: 4)
    drawn = []

    def batches(start):
        for number in range(start, 1000):
            drawn.append(number)
            yield np.full(1, number, np.float32)

    make = lambda h: gk.descent(lambda w, batch: batch[0] + 0 * w, jnp.zeros(()), optax.sgd(h.learning_rate))  # noqa: E731
    space = gk.grid(learning_rate=[0.1, 0.2, 0.3])
    data = batches(0) if is_plain else gk.stream(batches)
    sweep = gk.sweep(make, data, space, steps=30, plan=gk.Plan(width=1, threads=2), **QUIET)
    for fit in sweep:
        assert fit.history["loss"].tolist() == list(range(30))
    assert drawn[-30:] == list(range(30))
    assert max(drawn) == 29


def test_two_programs_that_run_beside_each_other_are_the_two_alone():
    def make(h):
        return gk.descent(net_loss, init_net, {"sgd": optax.sgd, "adam": optax.adam}[h.optimizer](h.learning_rate))

    def run(optimizers, threads):
        space = gk.grid(optimizer=optimizers, learning_rate=[0.01, 0.03, 0.1], seed=range(2))
        return gk.sweep(make, DATA, space, steps=40, batch_size=8, plan=gk.Plan(width=2, threads=threads), **QUIET)

    both = run(["sgd", "adam"], 2)
    assert len(both.plan.programs) == 2
    for first, name in ((0, "sgd"), (6, "adam")):
        alone = run([name], 1)
        assert same_bits([fit.params for fit in both.fits[first : first + 6]], [fit.params for fit in alone])
        assert same_bits([fit.history for fit in both.fits[first : first + 6]], [fit.history for fit in alone])


def test_a_loss_with_metrics_records_them():
    def loss(params, batch):
        return net_loss(params, batch), {"bias_norm": jnp.linalg.norm(params["bias"])}

    fit = gk.fit(gk.descent(loss, init_net, optax.sgd(0.1)), DATA, steps=12, **QUIET)
    assert fit.history["bias_norm"].shape == (12,)
    assert fit.history["bias_norm"][0] == 0 < fit.history["bias_norm"][-1]


def test_unroll_is_fit_inside_ones_own_program():
    x, y = map(jnp.asarray, DATA)
    descent = gk.descent(net_loss, init_net(jax.random.key(0)), optax.sgd(0.1))
    batches = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (12, *leaf.shape)), (x, y))
    state, infos, growths = jax.jit(lambda batches: gk.unroll(descent, descent.init(jax.random.key(0), None, None), batches))(
        batches
    )
    fit = gk.fit(descent, DATA, steps=12, **QUIET)
    chex.assert_trees_all_close(state.params, fit.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(infos.loss, fit.history["loss"], rtol=1e-5)
    assert growths == ()


def test_apply_net_scores_each_example():
    assert apply_net(init_net(jax.random.key(0)), DATA[0]).shape == (96,)
