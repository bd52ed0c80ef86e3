"""Targets that a loss has no meaning for are told before anything compiles, or where the run fails."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradkit as gk
from gradkit import losses, models

INPUTS = np.linspace(-1, 1, 20, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
LABELS = np.arange(20) % 10 + 1  # from 1 to 10


def binary(loss, learning_rate=0.1):
    return gk.descent(gk.objective(loss, lambda p, x: x @ p), jnp.zeros(3), optax.sgd(learning_rate))


def classifier(loss=losses.softmax, learning_rate=0.1):
    return gk.descent(gk.objective(loss, lambda p, x: x @ p), jnp.zeros((3, 10)), optax.sgd(learning_rate))


def wrapped(wrap, state=None):
    """A loss of the user's that calls an objective."""
    objective = gk.objective(losses.softmax, lambda p, x: x @ p)
    return gk.descent(lambda *args: wrap(objective, *args), jnp.zeros((3, 10)), optax.sgd(0.1), state=state)


WRAPS = {
    "with a metric": wrapped(lambda objective, p, batch: (objective(p, batch), {"norm": jnp.sum(p**2)})),
    "of other inputs": wrapped(lambda objective, p, batch: objective(p, (2 * batch[0], batch[1]))),
    "with a state": wrapped(lambda objective, p, s, batch, key: (objective(p, batch), (s, {})), jnp.zeros(())),
}
RANGE = (
    r"`data\[1\]` must hold classes from 0 to 9, as there are 10 scores, got 2 of 20 targets that are not so "
    r"\(the first: 10 at \[9\]\)\. Number the classes from 0 \(from labels 1 to 10 subtract 1\)"
)


@pytest.mark.parametrize("descent", [
    classifier(),
    classifier(functools.partial(losses.softmax)),
    models.descent(models.mlp((3, 10)), losses.softmax, optax.sgd(0.1)),
    models.descent(models.mlp((3, 4, 10), batch_norm=True), losses.softmax, optax.sgd(0.1)),
    *WRAPS.values(),
], ids=["objective", "partial", "model", "model with a state", *WRAPS])  # fmt: skip
def test_labels_outside_the_classes_are_refused_before_anything_compiles(descent):
    with pytest.raises(ValueError, match=RANGE):
        gk.fit(descent, (INPUTS, LABELS), steps=5, progress=False)
    with pytest.raises(ValueError, match=r"`validation\[1\]` must hold classes from 0 to 9"):
        gk.fit(descent, (INPUTS, LABELS - 1), steps=5, validation=(INPUTS, LABELS), progress=False)


def test_labels_outside_the_classes_are_refused_in_sweeps_and_by_trees():
    make = lambda h: classifier(learning_rate=h.learning_rate)  # noqa: E731
    with pytest.raises(ValueError, match=RANGE):
        gk.sweep(make, (INPUTS, LABELS), gk.grid(learning_rate=[0.1, 0.2]), steps=5, batch_size=4, progress=False)
    trees = gk.boosting.descent(losses.softmax, learning_rate=0.1, depth=1, num_outputs=2)
    with pytest.raises(ValueError, match=r"`data\[1\]` must hold classes from 0 to 1, as there are 2 scores"):
        gk.fit(trees, (gk.boosting.bin(INPUTS[:4]), np.array([1, 2, 1, 2])), steps=2, progress=False)


@pytest.mark.parametrize("loss, targets, match", [
    (losses.logistic, [-1, 1], r"must lie between 0 and 1, got 10 of 20 .*: -1.0 at \[0\]\)\. Write the two classes as 0 and 1"),
    (losses.logistic, [1, 2], r"must lie between 0 and 1, got 10 of 20"),
    (functools.partial(losses.focal, gamma=1.0), [1, 2], r"must lie between 0 and 1"),
    (losses.hinge, [1, 2], r"must be 1 for one class, 0 or -1 for the other, got 10 of 20"),
    (losses.poisson, [-0.5, 2], r"must be counts or rates, at least 0, got 10 of 20"),
], ids=["logistic of signs", "logistic of 1 and 2", "focal", "hinge", "poisson"])  # fmt: skip
def test_targets_beyond_the_range_of_a_loss_are_refused(loss, targets, match):
    with pytest.raises(ValueError, match=r"`data\[1\]` " + match):
        gk.fit(binary(loss), (INPUTS, np.tile(np.float32(targets), 10)), steps=5, progress=False)


@pytest.mark.parametrize("loss, targets", [
    (losses.logistic, [0.0, 1 + 1e-6]),  # a probability after rounding
    (losses.hinge, [-1, 1]),
    (losses.hinge, [0, 1]),
    (losses.poisson, [0, 2.5]),
    (losses.squared, [-1, 100]),
])  # fmt: skip
def test_targets_within_the_range_of_a_loss_pass(loss, targets):
    gk.fit(binary(loss), (INPUTS, np.tile(np.float32(targets), 10)), steps=1, progress=False)


@pytest.mark.parametrize("place", [np.asarray, jnp.asarray])
def test_bytes_may_number_256_classes_and_do_not_stand_for_signs(place):
    """In bytes 256 is 0 and -1 is 255, where they are wrapped around."""
    pixels = np.arange(20).astype(np.uint8) + np.uint8(236)
    wide = gk.descent(gk.objective(losses.softmax, lambda p, x: x @ p), jnp.zeros((3, 256)), optax.sgd(0.1))
    result = gk.fit(wide, (INPUTS, place(pixels)), steps=1, progress=False)
    np.testing.assert_allclose(result.history["loss"], np.log(256), rtol=1e-6)
    with pytest.raises(ValueError, match=r"must be 1 for one class, 0 or -1 for the other, got 10 of 20 .*: 255 at \[1\]"):
        gk.fit(binary(losses.hinge), (INPUTS, place(np.tile(np.uint8([0, 255]), 10))), steps=1, progress=False)


def test_examples_of_weight_zero_may_hold_what_they_like():
    weights = np.where(LABELS == 10, 0, 1).astype(np.float32)
    assert gk.fit(classifier(), (INPUTS, LABELS, weights), steps=5, progress=False).status == gk.Status.FINISHED


def test_the_first_batch_of_a_stream_is_looked_at():
    with pytest.raises(ValueError, match=r"`batch\[1\]` must hold classes from 0 to 9"):
        gk.fit(classifier(), iter([(INPUTS, LABELS)] * 3), steps=3, progress=False)


def later_labels(first_bad):
    """A stream whose batch ``first_bad`` is the first with a label beyond the classes."""
    return [(INPUTS, LABELS - 1 if step < first_bad else LABELS) for step in range(8)]


@pytest.mark.parametrize("data", [
    iter(later_labels(3)),
    gk.stream(lambda start: later_labels(3)[start:]),
    gk.drawn(lambda key: (jnp.asarray(INPUTS), jnp.asarray(LABELS) - 1 + jax.random.bernoulli(key, 0.2).astype(int))),
], ids=["iterable", "stream", "drawn"])  # fmt: skip
def test_a_label_outside_the_classes_that_comes_later_is_named_where_the_run_fails(data):
    result = gk.fit(classifier(), data, steps=8, progress=False)
    assert result.status == gk.Status.DIVERGED
    assert result.bad_leaf == "loss"
    wanted = "batch[1] must hold classes from 0 to 9, as there are 10 scores, got 2 of 20 targets that are not so "
    wanted += "(the first: 10 at [9])"
    assert result.reason == wanted
    assert f"; not finite: loss in step {result.steps + 1}: {wanted}" in repr(result)
    assert result.steps == 3 or isinstance(data, gk.data.sources.Drawn)


def test_targets_beyond_the_range_that_come_later_in_a_stream_are_told():
    """-1 and 1 in the logistic loss do not fail."""
    signs = np.tile(np.float32([-1, 1]), 10)
    data = gk.stream(lambda start: [(INPUTS, np.maximum(signs, 0)), (INPUTS, signs), (INPUTS, signs)][start:])
    make = lambda h: binary(losses.logistic, h.learning_rate)  # noqa: E731
    [note] = gk.sweep(make, data, gk.grid(learning_rate=[0.1, 0.2]), steps=3, progress=False).notes
    assert "batch[1] must lie between 0 and 1, got 20 of 60 targets that are not so (the first: -1.0 at [1, 0])" in note
