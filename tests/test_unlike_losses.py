"""Members are judged by one loss: penalties stay out of the evaluation, and what else differs is told."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradkit as gk
from gradkit import losses

DATA = (np.ones(4, np.float32), np.ones(4, np.float32))
VALIDATION = (np.ones(4, np.float32), np.full(4, 0.6, np.float32))


def scale(params, inputs):
    return params * inputs


def penalized(l2):
    return losses.objective(losses.squared, scale, penalty=lambda params: l2 * params**2)


def by_hand(l2):
    return lambda params, batch: jnp.mean((params * batch[0] - batch[1]) ** 2) + l2 * params**2


def swept(make, space, **options):
    return gk.sweep(make, DATA, space, steps=100, validation=VALIDATION, progress=False, **options)


def test_a_penalty_is_swept_towards_the_validation_data_and_not_towards_none():
    """Without a penalty 1 is learned, with l2 = 0.5 it is 2 / 3: off by 0.4 and by 0.067."""
    result = swept(lambda h: gk.descent(penalized(h.l2), jnp.zeros(()), optax.sgd(0.1)), gk.grid(l2=[0.0, 0.5]))
    assert result.best().hyper == {"l2": 0.5}
    np.testing.assert_allclose(result.table().validation_loss, [0.4**2, (2 / 3 - 0.6) ** 2], rtol=1e-4)
    assert result.notes == ()


TOLD = "the loss in evaluation mode reads l2 itself, not through the parameters"


def test_a_loss_that_reads_what_is_swept_is_told():
    make = lambda h: gk.descent(by_hand(h.l2), jnp.zeros(()), optax.sgd(h.learning_rate))  # noqa: E731
    result = swept(make, gk.grid(l2=[0.0, 0.5], learning_rate=[0.1, 0.2]))
    assert [note.startswith(TOLD) for note in result.notes] == [True]
    assert f"note: {TOLD}" in str(result)
    assert "validation_loss=" in str(result)
    assert "evaluate=" in str(result)


def test_a_loss_that_reads_what_all_members_share_is_not():
    make = lambda h: gk.descent(by_hand(h.l2), jnp.zeros(()), optax.sgd(h.learning_rate))  # noqa: E731
    assert swept(make, gk.grid(l2=[0.5], learning_rate=[0.1, 0.2])).notes == ()


def test_the_remedies_silence_it():
    space = gk.grid(l2=[0.0, 0.5])
    judged = lambda h: gk.descent(by_hand(h.l2), jnp.zeros(()), optax.sgd(0.1), validation_loss=by_hand(0.0))  # noqa: E731
    assert swept(judged, space).notes == ()
    unjudged = lambda h: gk.descent(by_hand(h.l2), jnp.zeros(()), optax.sgd(0.1))  # noqa: E731
    error = lambda params, batch: {"error": by_hand(0.0)(params, batch)}  # noqa: E731
    assert swept(unjudged, space, evaluate=error, metric="error", goal="min").notes == ()
    loss = lambda params, batch: {"plain_loss": by_hand(0.0)(params, batch)}  # noqa: E731
    assert swept(unjudged, space, evaluate=loss, metric="plain_loss").notes == ()


def test_the_loss_that_ranks_is_the_one_that_is_told_of():
    judged = lambda h: gk.descent(by_hand(h.l2), jnp.zeros(()), optax.sgd(0.1), validation_loss=by_hand(0.0))  # noqa: E731
    space = gk.grid(l2=[0.0, 0.5])
    for asked in ({"metric": "loss"}, {"metric": "final_loss"}, {"halving": gk.Halving(min_steps=20, metric="loss")}):
        [note] = swept(judged, space, **asked).notes
        assert note.startswith("the training loss reads l2 itself")
        assert "Rank by metric='validation_loss'" in note
    assert swept(judged, space).notes == ()


def test_what_is_averaged_over_makes_no_difference():
    def make(h):
        return gk.descent(by_hand(0.0), jnp.zeros(()), optax.sgd(0.1), validation_loss=by_hand(h.fold))

    assert swept(make, gk.grid(fold=[0.0, 0.5]), over="fold").notes == ()
    assert len(swept(make, gk.grid(fold=[0.0, 0.5]), over=None).notes) == 1


@pytest.mark.parametrize("optimizer", [
    lambda h: gk.transforms.guard(optax.sgd(h.learning_rate)),
    lambda h: gk.transforms.average(optax.adam(h.learning_rate), gk.transforms.fading(h.learning_rate)),
], ids=["guard", "average"])  # fmt: skip
def test_optimizers_act_through_the_parameters(optimizer):
    make = lambda h: gk.descent(penalized(0.1), jnp.zeros(()), optimizer(h))  # noqa: E731
    assert swept(make, gk.grid(learning_rate=[0.01, 0.1])).notes == ()


def test_parameters_of_a_loss_are_told():
    def make(h):
        return gk.descent(gk.objective(functools.partial(losses.huber, delta=h.delta), scale), jnp.zeros(()), optax.sgd(0.1))

    [note] = swept(make, gk.grid(delta=[0.1, 1.0])).notes
    assert "reads delta itself" in note


@pytest.mark.parametrize("loss", [penalized, by_hand])
def test_training_losses_that_read_what_is_swept_are_told_where_there_is_nothing_else_to_rank_by(loss):
    make = lambda h: gk.descent(loss(h.l2), jnp.zeros(()), gk.transforms.guard(optax.sgd(h.learning_rate)))  # noqa: E731
    space = gk.grid(l2=[0.0, 0.5], learning_rate=[0.1, 0.2])
    [note] = gk.sweep(make, DATA, space, steps=20, progress=False).notes
    assert note.startswith("the training loss reads l2 itself, not through the parameters")


@pytest.mark.parametrize("validation", [VALIDATION, None], ids=["validation", "training"])
def test_static_losses_are_told_and_what_is_static_besides_is_not(validation):
    def make(h):
        apply = scale if h.shape == "line" else lambda params, inputs: jnp.tanh(params * inputs)
        return gk.descent(gk.objective(h.loss, apply), jnp.zeros(()), optax.sgd(h.learning_rate))

    space = gk.grid(shape=["line", "curve"], learning_rate=[0.1, 0.2]) * gk.grid(loss=[losses.squared, losses.absolute])
    [note] = gk.sweep(make, DATA, space, steps=20, validation=validation, progress=False).notes
    assert " reads loss itself, not through the parameters" in note
    alike = gk.grid(shape=["line", "curve"], learning_rate=[0.1, 0.2], loss=[losses.squared])
    assert gk.sweep(make, DATA, alike, steps=20, validation=validation, progress=False).notes == ()


@pytest.mark.parametrize("validation", [VALIDATION, None], ids=["validation", "training"])
def test_static_numbers_in_a_loss_are_told_and_those_of_its_form_are_not(validation):
    def notes(make, space):
        return gk.sweep(make, DATA, space, steps=5, validation=validation, progress=False).notes

    static = gk.grid(l2=gk.static([0.1, 0.5]), width=gk.static([2, 3]), learning_rate=[0.1, 0.2])

    def wide(h, loss_fn):
        return gk.descent(loss_fn, jnp.zeros(h.width), optax.sgd(h.learning_rate))

    def decayed(params, batch):
        return jnp.mean((params.mean() * batch[0] - batch[1]) ** 2)

    [note] = notes(lambda h: wide(h, lambda params, batch: decayed(params, batch) + h.l2 * jnp.sum(params**2)), static)
    assert " reads l2 itself, not through the parameters" in note
    decays = lambda h: optax.chain(optax.add_decayed_weights(h.l2), optax.sgd(h.learning_rate))  # noqa: E731
    assert notes(lambda h: gk.descent(decayed, jnp.zeros(h.width), decays(h)), static) == ()


@pytest.mark.long
@pytest.mark.parametrize("is_validated", [False, True])
def test_static_losses_of_trees_are_told(is_validated):
    data = gk.boosting.bin(np.arange(20.0)[:, None]), np.arange(20.0, dtype=np.float32)
    run = {"steps": 1, "validation": data if is_validated else None, "progress": False}
    make = lambda h: gk.boosting.descent(h.loss, learning_rate=0.1, depth=h.depth)  # noqa: E731
    space = gk.grid(loss=[losses.squared, losses.absolute], depth=gk.static([1, 2]))
    [note] = gk.sweep(make, data, space, **run).notes
    assert " reads loss itself, not through the parameters" in note
    assert note.endswith("Rank by a metric of evaluate=, on validation=")
    alike = gk.grid(loss=[losses.squared], depth=gk.static([1, 2]))
    assert gk.sweep(make, data, alike, **run).notes == ()


@pytest.mark.long
def test_what_trees_are_held_out_by_is_told_where_it_differs():
    inputs = gk.boosting.bin(np.arange(20.0)[:, None])
    data = gk.boosting.Examples(inputs, np.arange(20.0, dtype=np.float32), fold=jnp.arange(20) % 2)

    def make(h):
        loss = functools.partial(losses.huber, delta=h.delta)
        return gk.boosting.descent(loss, learning_rate=h.learning_rate, depth=1, fold=h.fold)

    space = gk.grid(delta=[0.1, 1.0], learning_rate=[0.1, 0.3], fold=range(2))
    [note] = gk.sweep(make, data, space, steps=3, over="fold", progress=False).notes
    assert note.startswith("the training loss reads delta itself, not through the parameters")
    alike = gk.grid(delta=[1.0], learning_rate=[0.1, 0.3], fold=range(2))
    assert gk.sweep(make, data, alike, steps=3, over="fold", progress=False).notes == ()
