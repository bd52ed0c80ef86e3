"""Arrays that mean more than their numbers: masks, missing values, matrices and sparse arrays are told, never dropped."""

import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
import scipy.sparse
from jax.experimental import sparse

import gradkit as gk

X = np.arange(6.0).reshape(3, 2)
MASKED = np.ma.masked_array(X, mask=X == 3)


def fit(data, **options):
    descent = gk.descent(lambda p, batch: jnp.mean((p - batch[1]) ** 2), jnp.zeros(()), optax.sgd(0.1))
    return gk.fit(descent, data, steps=1, progress=False, **options)


@pytest.mark.parametrize("call", [
    lambda: fit((MASKED, np.zeros(3))),
    lambda: fit(iter([(MASKED, np.zeros(3))])),
    lambda: fit((X, np.zeros(3)), validation=(MASKED, np.zeros(3))),
    lambda: gk.data.standardize(MASKED),
    lambda: gk.boosting.bin(MASKED),
    lambda: gk.sklearn.GradientBoostingRegressor().fit(MASKED, np.zeros(3)),
    lambda: gk.sklearn.GradientBoostingRegressor().fit(X, np.zeros(3), sample_weight=np.ma.masked_array(np.ones(3), [0, 0, 1])),
    lambda: gk.sklearn.GradientBoostingClassifier().fit(X, np.ma.masked_array([0, 1, 1], [0, 0, 1])),
], ids=["data", "stream", "validation", "standardize", "bin", "features", "weights", "classes"])  # fmt: skip
def test_masked_values_are_refused_with_the_remedy(call):
    with pytest.raises(ValueError, match=r"` must have no masked values, got 1 of . that are\. Give examples .* the weight 0"):
        call()


def test_an_array_of_which_nothing_is_masked_passes():
    got = fit((np.ma.masked_array(X), np.ma.masked_array(np.full(3, 2.0), mask=False)))
    np.testing.assert_allclose(got.params, 0.4)


@pytest.mark.parametrize("leaf, match", [
    (pd.Series([1, None, 3], dtype="Int64"), r"`data\[0\]` must (hold numbers|be finite)"),
    (pd.Series([1.0, None, 3.0]), r"`data\[0\]` must be finite in float32, got 1 of 3"),
    (np.array([1, None, 3], object), r"`data\[0\]` must hold numbers, got ndarray of dtype object"),
    (np.zeros(3, [("a", float), ("b", float)]), r"`data\[0\]` must hold numbers, got ndarray of dtype \[\('a'"),
    (np.zeros(3, "timedelta64[s]"), r"`data\[0\]` must hold numbers, got ndarray of dtype timedelta64"),
    (np.zeros(3, "datetime64[s]"), r"`data\[0\]` must hold numbers, got ndarray of dtype datetime64"),
    (X.view(np.matrix), r"`data\[0\]` must be a plain array, got a numpy\.matrix of shape \(3, 2\)\. Convert it"),
    (scipy.sparse.csr_matrix(X), r"`data\[0\]` must hold numbers, got csr_matrix of dtype object\. Make it dense"),
    (sparse.BCOO.fromdense(jnp.eye(3)), r"`data` must hold dense arrays, got a BCOO\. Make it dense by `\.todense"),
], ids=["nullable", "NaN", "objects", "structured", "timedelta", "datetime", "matrix", "sparse", "BCOO"])  # fmt: skip
def test_arrays_that_mean_more_than_their_numbers_are_refused(leaf, match):
    with pytest.raises((TypeError, ValueError), match=match):
        fit((leaf, np.zeros(3)))
