"""Halving from end to end: who survives, that nobody's bits change by it, and what is told about those who leave."""

import functools
import os
import signal

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import adam_net, errors, init_net, net_loss, regression_data, same_bits

import gradkit as gk
from gradkit.engine import chunk, group, moves, runner

DATA = regression_data()
QUIET = {"progress": False}
RATES = np.geomspace(1e-4, 0.1, 9)[
    [7, 0, 6, 1, 8, 2, 5, 3, 4]
].tolist()  # the best come from all over, and the winner has to move
SPACE = gk.grid(learning_rate=RATES, seed=range(2))
HALVING = gk.Halving(min_steps=10)  # rungs after 10 and 30 of 100 steps
RUN = {"steps": 100, "batch_size": 16, **QUIET}
Status = gk.Status


def drift(params, batch):
    """The nearer a member starts, the lower its loss at every step."""
    return 0.5 * params**2


def drifting(h):
    return gk.descent(drift, lambda key: h.start, optax.sgd(0.01))


def descend_to_one(h):
    return gk.descent(lambda w, batch: 1 + (w - 3) ** 2, jnp.zeros(()), optax.sgd(h.learning_rate))


def two_optimizers(h):
    return gk.descent(net_loss, init_net, {"sgd": optax.sgd, "adam": optax.adam}[h.optimizer](h.learning_rate))


def growing(h):
    """A descent that returns what every step added."""

    def step(state, batch):
        added = h.learning_rate * (3 - state)
        return state + added, gk.Info((state - 3) ** 2, {}), added

    return gk.Descent(lambda *_: jnp.zeros(()), step, lambda state, growths: growths, lambda params, batch: jnp.sum(params))


def sweep_and_paths(*args, **settings):
    """A sweep, and where each member ran: ``{member: [(step, width, lane), ...]}``."""
    usual, seen = group.execute, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "execute", lambda runs, *rest: (seen.extend(runs), usual(runs, *rest))[1])
        sweep = gk.sweep(*args, **settings)
    homes = ((position, member, run) for run in seen for member, position in enumerate(run.members.positions.tolist()))
    return sweep, {position: [tuple(place) for place in run.ledger.path[member]] for position, member, run in homes}


@functools.cache
def halved(width, halving=HALVING, space=SPACE):
    return sweep_and_paths(adam_net, DATA, space, halving=halving, plan=gk.Plan(width=width), **RUN)


@functools.cache
def full(width, space=SPACE):
    return gk.sweep(adam_net, DATA, space, plan=gk.Plan(width=width), **RUN)


@functools.cache
def narrowing(*widths):
    """The sweep in a plan that narrows at its rungs."""
    plan = halved(widths[0])[0].plan
    plan = plan._replace(programs=(plan.programs[0]._replace(widths=widths),))
    return sweep_and_paths(adam_net, DATA, SPACE, halving=HALVING, plan=plan, **RUN)


def losses_before(sweep, member, steps):
    return sweep[member].history["loss"][:steps]


def statuses(sweep):
    return [fit.status.name for fit in sweep]


@pytest.mark.few(1)
@pytest.mark.parametrize(("width", "is_moved"), [(1, False), (2, False), (4, True)])
def test_who_keeps_width_and_lane_makes_the_steps_of_the_full_sweep_to_the_bit(width, is_moved):
    sweep, paths = halved(width)
    stayed = [member for member, path in paths.items() if len(path) == 1]
    survivors = [member for member in stayed if sweep[member].status == Status.FINISHED]
    assert (len(stayed) < len(SPACE)) == is_moved
    assert survivors or is_moved
    for member in stayed:
        steps = sweep[member].steps
        assert same_bits(losses_before(sweep, member, steps), losses_before(full(width), member, steps))
    for member in survivors:
        assert same_bits(sweep.params(member), full(width).params(member))
        assert same_bits(sweep[member].history, full(width)[member].history)


def test_who_changes_its_lane_has_the_bits_of_the_full_sweep_up_to_there():
    sweep, paths = halved(4)
    moved = {member: path for member, path in paths.items() if len(path) > 1}
    assert any(sweep[member].status == Status.FINISHED for member in moved)
    for member, path in moved.items():
        assert path[1][0] in (10, 30)
        assert same_bits(losses_before(sweep, member, path[1][0]), losses_before(full(4), member, path[1][0]))
        steps = sweep[member].steps
        np.testing.assert_allclose(
            losses_before(sweep, member, steps), losses_before(full(4), member, steps), rtol=1e-3, atol=1e-6
        )


@pytest.mark.few(2)
@pytest.mark.parametrize("widths", [(1, 1, 1), (4, 4, 4), (4, 2, 1), (8, 8, 1)])
def test_a_replay_repeats_every_member_to_the_bit_wherever_it_moved(widths):
    sweep, paths = halved(widths[0]) if len(set(widths)) == 1 else narrowing(*widths)
    survivor = statuses(sweep).index("FINISHED")
    assert {width for _, width, _ in paths[survivor]} == set(widths)
    pruned = {fit.rung: member for member, fit in enumerate(sweep) if fit.status == Status.PRUNED}
    assert set(pruned) == {1, 2}
    for member in [survivor, survivor + 1, *pruned.values(), 0, 17]:
        fit, again = sweep[member], sweep.replay(member)
        assert (again.status, again.steps, again.rung) == (fit.status, fit.steps, fit.rung)
        assert same_bits(again.params, sweep.params(member))
        assert same_bits(again.history, fit.history)
        assert same_bits(again.state.params, fit.params)


def wide_net(h):
    return gk.descent(net_loss, lambda key: init_net(key, d=300, width=100), optax.adam(h.learning_rate))


def test_a_replay_repeats_the_bits_of_each_lane():
    """In matrix products of this size the lanes of a chunk do not all get the same bits (on some processors)."""
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(96, 300)).astype(np.float32)
    data = inputs, np.tanh(inputs[:, 0])
    settings = {"steps": 30, "batch_size": 32, "plan": gk.Plan(width=4, threads=1), **QUIET}
    for rates, halving in (
        ([0.01] * 4, None),
        ([0.002, 0.1, 0.003, 0.004, 0.2, 0.3, 0.001, 0.4], gk.Halving(eta=2, min_steps=20)),
    ):
        sweep, paths = sweep_and_paths(wide_net, data, gk.grid(learning_rate=rates), halving=halving, **settings)
        for member in range(len(rates)):
            assert same_bits(sweep.replay(member).params, sweep.params(member)), paths[member]


def marked(h):
    """A leaf that no loss depends on: infinite from the start in some members, or from a step on."""

    def step(state, batch):
        weight, mark, count = state
        mark = jnp.where(count + 1 == h.strike, jnp.inf, mark)
        return (weight * 0.99, mark, count + 1), gk.Info(weight**2, {}), ()

    init = lambda *_: (h.start * jnp.ones(()), jnp.where(h.is_infinite == 1, jnp.inf, 0.0), jnp.zeros((), int))  # noqa: E731
    return gk.Descent(init, step, lambda state, growths: state[0], lambda params, batch: params**2)


def test_what_may_be_infinite_is_known_wherever_a_member_moves():
    space = gk.zipped(
        start=[9.0, 1.0, 9.1, 1.1, 1.2, 9.2, 1.3, 9.3], is_infinite=[1, 0, 0, 1, 0, 1, 1, 0], strike=[0, 25, 0, 0, 0, 0, 0, 0]
    )
    halving = gk.Halving(eta=2, min_steps=20)
    sweep = gk.sweep(marked, jnp.zeros(1), space, steps=30, halving=halving, plan=gk.Plan(width=4), **QUIET)
    assert [statuses(sweep)[member] for member in (0, 2, 5, 7)] == ["PRUNED"] * 4
    assert [statuses(sweep)[member] for member in (1, 3, 4, 6)] == ["DIVERGED", "FINISHED", "FINISHED", "FINISHED"]
    assert (sweep[1].steps, sweep[1].bad_leaf) == (24, "state[1]")


def test_replays_of_descents_that_grow_have_all_their_rows():
    space = gk.grid(learning_rate=[0.1, 0.2, 0.3, 0.4, 0.01, 0.02])
    sweep = gk.sweep(growing, jnp.zeros(1), space, steps=20, halving=gk.Halving(min_steps=2), plan=gk.Plan(width=2), **QUIET)
    assert statuses(sweep) == ["PRUNED", "PRUNED", "PRUNED", "FINISHED", "PRUNED", "PRUNED"]
    for member in range(6):
        assert sweep[member].params.shape == (20,)
        assert np.count_nonzero(sweep[member].params) == sweep[member].steps
        assert same_bits(sweep.replay(member).params, sweep.params(member))
    several = gk.sweep(growing, jnp.zeros(1), gk.zipped(learning_rate=[0.1, 0.2], steps=[3, 9]), plan=gk.Plan(width=2), **QUIET)
    for member in range(2):
        assert same_bits(several.replay(member).params, several.params(member))


def test_pruned_members_keep_what_they_did_and_the_table_tells_where_they_left():
    sweep, _ = halved(4)
    table = sweep.table()
    assert table.status.value_counts().to_dict() == {"PRUNED": 16, "FINISHED": 2}
    assert table.rung.value_counts().to_dict() == {1: 12, 2: 4, 0: 2}
    for fit in sweep:
        assert fit.steps == {1: 10, 2: 30, 0: 100}[fit.rung]
        assert np.isfinite(fit.history["loss"][: fit.steps]).all() and np.isnan(fit.history["loss"][fit.steps :]).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fit.params))
    assert "dropped at a rung" in sweep[2].status.message
    assert (table.steps_made == [fit.steps for fit in sweep]).all()


def test_the_rungs_tell_who_left_and_why():
    rungs = halved(4)[0].rungs
    assert rungs.rung.tolist() == [1, 2]
    assert rungs.steps.tolist() == [10, 30]
    assert rungs.members.tolist() == [18, 6]
    assert rungs.configurations.tolist() == [9, 3]
    assert rungs.pruned.tolist() == [12, 4]
    assert rungs.kept.tolist() == [6, 2]
    assert (rungs.members == rungs.diverged + rungs.pruned + rungs.converged + rungs.kept).all()
    best = full(4).table().groupby("learning_rate").member.apply(list)
    means = [np.mean([full(4)[m].history["loss"][9] for m in pair]) for pair in best]
    assert rungs.best[0] == pytest.approx(min(means), rel=1e-6)


def test_seeds_live_and_die_together_by_their_mean():
    sweep, _ = halved(1)
    at_rung = np.array([full(1)[member].history["loss"][9] for member in range(18)]).reshape(9, 2)
    kept = set(np.argsort(at_rung.mean(1), kind="stable")[:3].tolist())
    for configuration in range(9):
        ranks = {sweep[2 * configuration].rung, sweep[2 * configuration + 1].rung}
        assert len(ranks) == 1
        assert (ranks == {1}) == (configuration not in kept)


STARTS = np.random.default_rng(0).permutation(np.arange(1, 244)) / 100


@functools.cache
def of_the_table(width):
    """The published bracket, and the lane steps of its segments."""
    usual, launched = runner._segment, []

    def counted(part, tickets, stop, *rest):
        num_steps = stop - part.step
        launched.append((part.run.num_lanes * num_steps, int(part.is_live.sum()) * num_steps))
        return usual(part, tickets, stop, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "_segment", counted)
        sweep = gk.sweep(
            drifting, jnp.zeros(1), gk.grid(start=STARTS), steps=81, halving=gk.Halving(min_steps=1),
            plan=gk.Plan(width=width, threads=1), **QUIET,
        )  # fmt: skip
    return sweep, *np.sum(launched, axis=0).tolist()


@pytest.mark.few(3)
@pytest.mark.parametrize(("width", "lane_steps"), [(1, 891), (2, 972), (8, 1336), (16, 1792), (64, 5504)])
def test_the_steps_made_are_those_of_the_published_table(width, lane_steps):
    """243 members at rungs 1, 3, 9, 27 of 81 steps; chunks are padded to their width and to no more."""
    sweep, launched, live = of_the_table(width)
    assert sum(fit.steps for fit in sweep) == live == 891
    assert launched == lane_steps


@pytest.mark.parametrize("width", [1, 8, 64])
def test_the_survivors_are_the_best_of_every_rung_at_any_width(width):
    sweep = of_the_table(width)[0]
    rank = np.argsort(np.argsort(STARTS))
    steps = np.select([rank < 3, rank < 9, rank < 27, rank < 81], [81, 27, 9, 3], 1)
    assert [fit.steps for fit in sweep] == steps.tolist()
    assert statuses(sweep) == np.where(steps == 81, "FINISHED", "PRUNED").tolist()
    np.testing.assert_allclose([fit.params for fit in sweep], STARTS * 0.99**steps, rtol=1e-5)
    assert sweep.best().hyper == {"start": STARTS.min()}
    assert len(sweep) == 243


def test_the_placement_repeats():
    again = sweep_and_paths(adam_net, DATA, SPACE, halving=HALVING, plan=gk.Plan(width=4, threads=1), **RUN)
    assert again[1] == halved(4)[1]
    assert same_bits([fit.params for fit in again[0]], [fit.params for fit in halved(4)[0]])
    assert same_bits([fit.history for fit in again[0]], [fit.history for fit in halved(4)[0]])


@hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
@hypothesis.given(st.integers(1, 9), st.data())
def test_survivors_are_seated_once_in_few_chunks_and_keep_their_lane_where_it_is_free(num_lanes, data):
    old = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=40))
    table = moves.seating(old, num_lanes)
    assert table.shape == (-(-len(old) // num_lanes), num_lanes)
    assert sorted(table[table >= 0].tolist()) == list(range(len(old)))
    assert (table >= 0).any(1).all()
    for survivor, lane in enumerate(old):
        if lane < num_lanes and survivor not in table[:, lane]:
            assert all(seated >= 0 and old[seated] == lane for seated in table[:, lane].tolist())


def test_diverged_members_go_first_and_nobody_takes_the_place_of_the_sound():
    space = gk.grid(learning_rate=[1e30, 1e29, 0.003, 1e28, 1e27, 1e26, 0.03, 1e25, 1e24])
    sweep = gk.sweep(adam_net, DATA, space, halving=HALVING, plan=gk.Plan(width=4), **RUN)
    assert [name for name in statuses(sweep) if name != "DIVERGED"] == ["PRUNED", "FINISHED"]
    assert (sweep[2].steps, sweep[6].steps) == (30, 100)
    rungs = sweep.rungs
    assert rungs.diverged.tolist() == [7, 0]
    assert rungs.pruned.tolist() == [0, 1]
    assert rungs.kept.tolist() == [2, 1]
    assert all(fit.steps < 10 and fit.bad_leaf for fit in sweep if fit.status == Status.DIVERGED)
    assert "7 diverged" in repr(sweep)
    for member in (0, 2, 6):
        assert same_bits(sweep.replay(member).params, sweep.params(member))


def test_a_configuration_that_loses_a_seed_is_dropped_whole():
    def make(h):
        base = adam_net(h)
        is_lost = (h.learning_rate > 0.05) & (h.seed == 1)
        broken = lambda info: info._replace(loss=jnp.where(is_lost, jnp.nan, info.loss))  # noqa: E731
        return base._replace(step=lambda *args: (lambda s, info, g: (s, broken(info), g))(*base.step(*args)))

    sweep = gk.sweep(make, DATA, SPACE, halving=HALVING, plan=gk.Plan(width=2), **RUN)
    assert [sweep[member].status for member in (8, 9)] == [Status.PRUNED, Status.DIVERGED]
    assert sweep.best().hyper["learning_rate"] < 0.05


def test_a_halved_sweep_in_which_all_diverged_returns_and_prints():
    sweep = gk.sweep(adam_net, DATA, gk.grid(learning_rate=[1e25, 1e30]), halving=HALVING, **RUN)
    assert statuses(sweep) == ["DIVERGED"] * 2
    assert "none finished" in repr(sweep)
    assert sweep.rungs.kept.tolist()[0] == 0 and np.isnan(sweep.rungs.best[0])
    assert len(sweep.table()) == 2


def test_programs_rank_together():
    space = gk.grid(optimizer=["sgd", "adam"], learning_rate=[0.02, 0.03, 0.1], seed=range(2))
    sweep = gk.sweep(two_optimizers, DATA, space, halving=HALVING, plan=gk.Plan(width=4), **RUN)
    whole = gk.sweep(two_optimizers, DATA, space, plan=gk.Plan(width=4), **RUN)
    scores = np.array([whole[member].history["loss"][9] for member in range(12)]).reshape(6, 2).mean(1)
    passed = set(np.argsort(scores, kind="stable")[:2].tolist())
    assert {member // 2 for member, fit in enumerate(sweep) if fit.rung != 1} == passed
    assert sweep.rungs.members.tolist() == [12, 4]
    survivor = statuses(sweep).index("FINISHED")
    assert same_bits(sweep.replay(survivor).params, sweep.params(survivor))


def batches(count):
    order = gk.data.source(DATA, batch_size=16, key=0, per_seed=False).tickets(None, 0, count)
    return lambda start: (tuple(a[rows] for a in DATA) for rows in order[start:])


@pytest.mark.parametrize("is_plain", [True, False])
def test_a_stream_is_halved_as_arrays_are(is_plain):
    data = batches(100)(0) if is_plain else gk.stream(batches(100))
    sweep, paths = sweep_and_paths(adam_net, data, SPACE, steps=100, halving=HALVING, plan=gk.Plan(width=4), **QUIET)
    expected, expected_paths = halved(4)
    assert paths == expected_paths
    assert sweep.rungs.equals(expected.rungs)
    assert same_bits([fit.params for fit in sweep], [fit.params for fit in expected])
    assert same_bits([fit.history for fit in sweep], [fit.history for fit in expected])
    if not is_plain:
        assert same_bits(sweep.replay(0).params, sweep.params(0))


@pytest.mark.parametrize(("count", "num_rungs", "survivors"), [(5, 0, 18), (20, 1, 6), (30, 2, 2)])
def test_a_stream_that_ends_early_stops_those_still_in_play(count, num_rungs, survivors):
    sweep = gk.sweep(adam_net, batches(count)(0), SPACE, steps=100, halving=HALVING, plan=gk.Plan(width=4), **QUIET)
    stopped = [fit for fit in sweep if fit.status == Status.STOPPED]
    assert len(sweep.rungs) == num_rungs
    assert [fit.steps for fit in stopped] == [count] * survivors
    assert all(fit.status == Status.PRUNED for fit in sweep if fit not in stopped)
    assert any("stream ended" in note for note in sweep.notes)
    assert "stopped" in repr(sweep)


def test_a_metric_of_evaluate_ranks_upwards_if_told_so():
    held_out = tuple(a[:32] for a in DATA)
    settings = {"validation": held_out, "evaluate": errors, "plan": gk.Plan(width=4), **RUN}
    halving = gk.Halving(min_steps=10, metric="mean_error", goal="max")
    sweep = gk.sweep(adam_net, DATA, SPACE, halving=halving, **settings)
    whole = gk.sweep(adam_net, DATA, SPACE, evaluate_every=10, **settings)
    scores = np.array([fit.evaluations["mean_error"][1] for fit in whole]).reshape(9, 2).mean(1)
    passed = set(np.argsort(-scores, kind="stable")[:3].tolist())
    assert {member // 2 for member, fit in enumerate(sweep) if fit.rung != 1} == passed
    assert sweep.rungs.best[0] == pytest.approx(scores.max())
    assert sweep[0].evaluations["step"][0] == 0
    assert all(fit.evaluations["step"][-1] == fit.steps for fit in sweep)
    winner = sweep.best("mean_error", goal="max")
    assert all(sweep[member].status == Status.FINISHED for member in winner.members)


def test_who_no_longer_changes_has_converged_and_can_win():
    space = gk.grid(learning_rate=[0.01, 0.02, 0.5, 0.05, 0.1, 0.03])
    halving = gk.Halving(eta=2, min_steps=10, tolerance=1e-3)
    sweep = gk.sweep(descend_to_one, jnp.zeros(1), space, steps=100, halving=halving, plan=gk.Plan(width=2), **QUIET)
    fit = sweep[2]
    assert (fit.status, fit.steps, fit.rung) == (Status.CONVERGED, 20, 2)
    rungs = sweep.rungs
    assert rungs.members.tolist() == [6, 3, 0] and rungs.converged.tolist() == [0, 1, 0]
    assert (rungs.members == rungs.diverged + rungs.pruned + rungs.converged + rungs.kept).all()
    assert sweep.best().hyper == {"learning_rate": 0.5}
    assert same_bits(sweep.replay(2).params, sweep.params(2))
    assert sweep.replay(2).status == Status.CONVERGED
    assert "converged" in repr(sweep)


def test_all_may_converge_before_the_end():
    space = gk.grid(learning_rate=[0.5, 0.4])
    halving = gk.Halving(eta=2, min_steps=10, tolerance=0.5)
    sweep = gk.sweep(descend_to_one, jnp.zeros(1), space, steps=200, halving=halving, **QUIET)
    assert sorted(statuses(sweep)) == ["CONVERGED", "PRUNED"]
    assert sweep.best().hyper == {"learning_rate": 0.5}


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_interrupt_between_rungs_returns_what_there_is(is_streamed, monkeypatch):
    """Ctrl-C arrives in the first segment after the first rung; the pruned stay pruned, the others stop where they stand."""
    usual, sent = chunk.settle, []

    def settle_then_interrupt(part, flight, tickets, stop, tally):
        usual(part, flight, tickets, stop, tally)
        if stop > 10 and not sent:
            sent.append(os.kill(os.getpid(), signal.SIGINT))

    monkeypatch.setattr(chunk, "settle", settle_then_interrupt)
    data, size = (gk.stream(batches(100)), None) if is_streamed else (DATA, 16)
    sweep = gk.sweep(
        adam_net, data, SPACE, steps=100, batch_size=size, halving=HALVING, plan=gk.Plan(width=4, threads=1), **QUIET
    )
    assert sent and len(sweep.rungs) == 1
    assert sorted(set(statuses(sweep))) == ["PRUNED", "STOPPED"]
    assert statuses(sweep).count("STOPPED") == 6
    assert all(10 <= fit.steps <= 30 and fit.params is not None for fit in sweep if fit.status == Status.STOPPED)
    assert all(fit.steps == 10 for fit in sweep if fit.status == Status.PRUNED)
    assert len(sweep.table()) == 18 and "stopped" in repr(sweep)


def test_a_halved_sweep_prints_and_draws_and_names_its_best(tmp_path):
    sweep, _ = halved(4)
    best, whole = sweep.best(), full(4).best()
    assert all(sweep[member].status == Status.FINISHED for member in best.members)
    assert best.mean >= whole.mean * (1 - 1e-3)
    text = repr(sweep)
    for words in ("18 members (9 configurations)", "16 pruned, 2 finished", "best: learning_rate=", "halving dropped"):
        assert words in text
    sweep.plot().savefig(tmp_path / "halved.png")
    assert (tmp_path / "halved.png").stat().st_size > 10_000
    assert len(sweep.curves()) == 18 * 101


def test_a_sweep_without_halving_has_no_rungs():
    assert len(full(4).rungs) == 0
    assert "rung" not in full(4).table()
