"""Plans, fits and sweeps are pickled, copied and sent to another process; what cannot travel is said."""

import copy
import multiprocessing
import pickle
import sys
import types
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import adam_net, errors, init_net, net_loss, regression_data, same_bits

import gradkit as gk
from gradkit import travels

DATA = regression_data()
SPACE = gk.grid(learning_rate=[0.01, 0.02, 0.03], seed=range(2))
RUN = {"steps": 12, "batch_size": 16, "progress": False}


def run(make=adam_net, data=DATA, space=SPACE, *, width=2, **changes):
    return gk.sweep(make, data, space, plan=gk.Plan(width=width, threads=1), **(RUN | changes))


@pytest.fixture(scope="module")
def sweep():
    """A sweep with all that may travel: a typed key, validation, metrics, orders per seed, rungs."""
    halving, validation = gk.Halving(min_steps=4), regression_data(24)
    own = {"key": jax.random.key(3), "validation": validation, "evaluate": errors, "evaluate_every": 5}
    return run(order="per_seed", halving=halving, **own)


def results(sweep):
    return [[fit.params, fit.history, fit.evaluations] for fit in sweep]


def again(value):
    return pickle.loads(pickle.dumps(value))


def check_equal(other, sweep):
    assert other.table().equals(sweep.table())
    assert other.rungs.equals(sweep.rungs)
    assert str(other) == str(sweep)
    assert (other.plan, other.question, other.reported, other.notes) == (sweep.plan, sweep.question, sweep.reported, sweep.notes)
    assert [fit.status for fit in other] == [fit.status for fit in sweep]
    assert same_bits(results(other), results(sweep))


@pytest.mark.parametrize("way", [again, copy.copy, copy.deepcopy])
def test_a_sweep_is_the_same_after_its_way_and_replays_to_the_bit(sweep, way):
    other = way(sweep)
    check_equal(other, sweep)
    for member in (0, 5):  # one runs to the end, one is dropped at a rung
        fit = other.replay(member)
        assert same_bits([fit.params, fit.history], [sweep[member].params, sweep[member].history])
        assert (fit.status, fit.rung) == (sweep[member].status, sweep[member].rung)


def test_a_deep_copy_shares_no_result(sweep):
    other = copy.deepcopy(sweep)
    other[0].history["loss"][:] = 7
    assert not (sweep[0].history["loss"] == 7).any()


def test_a_fit_arrives_with_its_arrays_on_the_host_and_its_keys_as_keys():
    loss_fn = lambda params, state, batch, key: (net_loss(params, batch) + 0 * jax.random.uniform(key), (state, {}))  # noqa: E731
    fit = gk.fit(gk.descent(loss_fn, init_net, optax.sgd(0.1), state=()), DATA, **RUN)
    other = again(fit)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(other.params))
    assert other.state.key == fit.state.key
    assert other.status is gk.Status.FINISHED
    assert repr(other) == repr(fit)
    assert same_bits([other.params, other.state.optimizer, other.history], [fit.params, fit.state.optimizer, fit.history])
    for copied in (copy.copy(fit), copy.deepcopy(fit)):
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(copied.params))
        assert same_bits(copied.params, fit.params)


def work(pipe):
    """In the other process: look at what arrives, run members again, and send all of it back."""
    for _ in range(2):
        sweep = pipe.recv()
        try:
            pipe.send((sweep, sweep.replay(1), sweep.refit(1)))
        except ValueError as error:
            pipe.send((sweep, str(error), None))


def test_another_process_gets_all_results_and_runs_members_again_or_says_what_is_missing(sweep, monkeypatch):
    notebook = types.ModuleType("only_here")
    exec("def make(h):\n    return adam_net(h)", vars(notebook) | {"adam_net": adam_net}, vars(notebook))
    notebook.make.__module__ = "only_here"
    monkeypatch.setitem(sys.modules, "only_here", notebook)
    here = run(notebook.make)
    context = multiprocessing.get_context("spawn")
    pipe, other_end = context.Pipe()
    process = context.Process(target=work, args=(other_end,))
    process.start()
    pipe.send(sweep)
    other, replayed, refitted = pipe.recv()
    check_equal(other, sweep)
    assert same_bits([replayed.params, replayed.history], [sweep[1].params, sweep[1].history])
    assert same_bits(refitted.params, sweep.refit(1).params)
    pipe.send(here)
    other, message, _ = pipe.recv()
    process.join()
    check_equal(other, here)
    assert message == (
        "`sweep` must have all it was made of to run a member again, got no make (make). make: it is not found in this process: "
        "No module named 'only_here'. Define it in a module that both processes can import, or call gk.sweep(..., "
        "plan=sweep.plan) in this one."
    )


def test_a_make_without_an_address_is_missed_by_name_and_its_copies_are_whole():
    local = run(lambda h: adam_net(h), steps=1)
    other = again(local)
    check_equal(other, local)
    for call in (other.replay, other.refit):
        with pytest.raises(ValueError, match=r"(?s)`sweep` must have all it was made of to run a member again, got no make "
                           r"\(<lambda>\)\. make: it cannot be sent: .*lambda.* Define it in a module"):  # fmt: skip
            call(0)
    assert same_bits(copy.deepcopy(local).replay(0).params, local[0].params)


def test_functions_among_the_values_arrive_as_themselves_or_as_their_names():
    tried = {"tanh": jnp.tanh, "mine": lambda scores: scores}
    space = gk.grid(activation=list(tried.values()), learning_rate=[0.1])
    make = lambda h: gk.descent(lambda w, batch: jnp.mean((h.activation(w * batch[0].sum(1)) - batch[1]) ** 2), jnp.ones(()),  # noqa: E731
                                optax.sgd(h.learning_rate))  # fmt: skip
    local = run(make, space=space, steps=1)
    other = again(local)
    assert other.table().equals(local.table())
    assert other.hyper[0]["activation"] is jnp.tanh
    assert isinstance(other.hyper[1]["activation"], travels.Lost)
    assert other.configurations() == local.configurations()


def drawn(key):
    """A batch."""
    inputs = jax.random.normal(key, (8, 6))
    return inputs, inputs.sum(1)


def batches(start):
    """Batches from a step on."""
    return (tuple(map(np.asarray, drawn(jax.random.key(step)))) for step in range(start, 100))


@pytest.mark.parametrize("data", [gk.drawn(drawn), gk.stream(batches)], ids=["drawn", "stream"])
def test_what_makes_batches_travels_by_its_address(data):
    local = run(data=data, batch_size=None, steps=3)
    assert same_bits(again(local).replay(1).params, local[1].params)


def test_an_iterator_does_not_travel():
    local = run(data=batches(0), batch_size=None, steps=3)
    other = again(local)
    check_equal(other, local)
    with pytest.raises(ValueError, match=r"got no data \(<genexpr>\)\. data: it cannot be sent: "):
        other.replay(1)


OF_A_USER = """
import jax, jax.numpy as jnp, numpy as np, optax, gradkit as gk
target, start, seen = 3.0, np.ones(2), 2.0
def loss(w, batch): return ((w - target * batch) ** 2).mean()
def make(h): return gk.descent(loss, lambda key: jnp.asarray(start).sum(), optax.sgd(h.lr))
def evaluate(w, batch): return {"told": w * seen}
def draw(key): return jax.random.normal(key, (8,)) + target
def batches(first): return (np.full(8, target, np.float32) for _ in range(first, 9))
def still(h): return gk.descent(lambda w, batch: ((w - batch) ** 2).mean(), jnp.zeros(()), optax.sgd(h.lr))
"""


@pytest.fixture
def module(monkeypatch):
    """What a user defines and edits."""
    own = types.ModuleType("of_a_user")
    monkeypatch.setitem(sys.modules, "of_a_user", own)
    exec(OF_A_USER, vars(own))
    return own


PROGRAM, DATA_THEN = "`sweep` must be run again by the functions that it ran, got functions that", "`data` must be what the sweep"
EDITS = {
    "a global of the loss": ({"target": 5.0}, PROGRAM),
    "a constant of init": ({"start": np.array([1.0, 2.0])}, PROGRAM),
    "what evaluates": ({"seen": 3.0}, PROGRAM),
    "what draws": ({"target": 5.0}, PROGRAM),
    "a stream": ({"target": 5.0}, f"{DATA_THEN} ran on, got a stream that begins with another batch"),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_was_edited_since_is_refused_where_a_sweep_arrives(module, name):
    edit, message = EDITS[name]
    data = {"what draws": gk.drawn(module.draw), "a stream": gk.stream(module.batches)}.get(name, np.ones(8, np.float32))
    make = module.make if isinstance(data, np.ndarray) else module.still
    own = {"validation": np.ones(8, np.float32), "evaluate": module.evaluate, "batch_size": None, "steps": 2}
    local = run(make, data, gk.grid(lr=[0.1, 0.2]), **own)
    before, kept = {name: getattr(module, name) for name in edit}, pickle.dumps(local)
    vars(module).update(edit)
    for sent in (kept, pickle.dumps(pickle.loads(kept))):
        for call in (pickle.loads(sent).replay, pickle.loads(sent).refit):
            with pytest.raises(ValueError, match=message):
                call(0)
    vars(module).update(before)
    assert same_bits([again(local).replay(1).params, again(local).refit(1).params], [local[1].params, local.refit(1).params])


@pytest.mark.parametrize("name", ["data", "validation"])
def test_arrays_that_were_changed_before_a_sweep_was_sent_are_refused_where_it_arrives(module, name):
    arrays = {"data": np.ones(8, np.float32), "validation": np.ones(8, np.float32)}
    local = run(module.make, space=gk.grid(lr=[0.1]), width=1, batch_size=None, **arrays)
    arrays[name][:] = 0
    with pytest.raises(ValueError, match=f"`{name}` must be what the sweep ran on, got arrays that were changed in place since"):
        again(local).replay(0)


def test_a_sweep_from_another_jax_is_not_held_to_how_that_writes_programs(module):
    local = again(run(module.make, np.ones(8, np.float32), gk.grid(lr=[0.1, 0.2]), batch_size=None))
    seal = local.rerun.seals[0]._replace(program="in other words")
    here = replace(local.rerun, seals=(seal,))
    with pytest.raises(ValueError, match=PROGRAM):
        replace(local, rerun=here).refit(0)
    there = replace(here, sealed_by=("0.0", "cpu"))
    assert same_bits(replace(local, rerun=there).refit(0).params, local.refit(0).params)


def test_a_plan_arrives_with_its_devices_or_with_the_names_of_those_that_are_not_there(sweep):
    plan = sweep.plan
    assert again(plan) == copy.copy(plan) == copy.deepcopy(plan) == plan
    assert again(gk.Plan(width=3)) == gk.Plan(width=3)
    there = types.SimpleNamespace(platform="cpu", id=977, device_kind="a board")
    elsewhere = again(plan._replace(devices=(there,)))
    assert str(elsewhere.devices[0]) == "cpu:977 (a board)"
    assert again(elsewhere) == elsewhere
    assert "cpu device (a board)" in str(elsewhere)
    with pytest.raises(ValueError, match=r"`plan.devices` must be there, got cpu:977 \(a board\)\. The plan was made elsewhere"):
        gk.sweep(adam_net, DATA, SPACE, plan=elsewhere, **RUN)


def test_a_sweep_of_devices_that_are_not_there_says_so_and_refits(sweep):
    there = types.SimpleNamespace(platform="nowhere", id=0, device_kind="a board")
    other = again(replace(sweep, rerun=replace(sweep.rerun, plan=sweep.plan._replace(devices=(there,)))))
    with pytest.raises(ValueError, match=r"`plan.devices` must be there for a replay, got nowhere:0 \(a board\)\. sweep.refit"):
        other.replay(0)
    assert same_bits(other.refit(0).params, sweep.refit(0).params)
