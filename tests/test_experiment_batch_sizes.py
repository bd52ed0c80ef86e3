"""The noise of the gradient against enumeration and covariance, claims that can fail, and a small run to the end."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import gradkit as gk
from experiments import batch_sizes

POINTS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
TARGETS = np.zeros(7, np.float32)
SMALL = ["--batch-sizes", "32", "--epochs", "2", "--rates", "3", "--low", "0.03", "--high", "0.3", "--seeds", "1"]


def half_square(theta, batch):
    """The mean of half the squared distances to the inputs: the gradients of single examples differ as the inputs do."""
    return 0.5 * jnp.mean(jnp.sum((theta[None] - batch[0]) ** 2, axis=1))


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run of the whole experiment in small: its exit status, its folder and its table."""
    folder = tmp_path_factory.mktemp("batch_sizes")
    status = batch_sizes.main([*SMALL, "--output", str(folder)])
    return status, folder, pd.read_csv(folder / "table.csv")


@pytest.mark.parametrize("size", [1, 2, 5, 7])
def test_the_law_is_the_mean_over_all_batches_that_can_be_drawn(size):
    trace = np.trace(np.cov(POINTS.T))
    subsets = np.array(list(itertools.combinations(range(len(POINTS)), size)))
    distances = np.sum((POINTS[subsets].mean(axis=1) - POINTS.mean(axis=0)) ** 2, axis=1)
    assert batch_sizes.noise_law(trace, size, len(POINTS)) == pytest.approx(distances.mean(), rel=1e-5, abs=1e-12)


def test_the_spread_is_the_covariance_of_the_gradients_over_more_than_one_chunk(monkeypatch):
    monkeypatch.setattr(batch_sizes, "CHUNK", 3)
    trace, squared_norm = batch_sizes.measure_spread(half_square, jnp.ones(3), (jnp.asarray(POINTS), jnp.asarray(TARGETS)))
    assert trace == pytest.approx(np.trace(np.cov(POINTS.T)), rel=1e-5)
    assert squared_norm == pytest.approx(np.sum((1 - POINTS.mean(axis=0)) ** 2), rel=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_the_measured_noise_follows_the_law_within_its_standard_error(size):
    noise, error = batch_sizes.measure_noise(half_square, jnp.ones(3), (jnp.asarray(POINTS), jnp.asarray(TARGETS)), size)
    expected = batch_sizes.noise_law(np.trace(np.cov(POINTS.T)), size, len(POINTS))
    assert abs(noise - expected) < 4 * error < 0.3 * expected


def test_all_examples_at_once_have_no_noise():
    noise, _ = batch_sizes.measure_noise(half_square, jnp.ones(3), (jnp.asarray(POINTS), jnp.asarray(TARGETS)), len(POINTS))
    assert noise < 1e-10


def make_table(**columns):
    """A table as of three batch sizes for which every claim holds, with some columns replaced."""
    table = {
        "batch_size": [1, 10, 100], "best_rate": [0.1, 0.2, 0.4], "validation_loss": [0.1, 0.1, 0.3],
        "bytes_per_step": [8, 9, 10], "seconds_per_step": [1e-5, 2e-5, 4e-5],
        "noise": [10.1, 1.0, 1e-12], "noise_error": [0.1, 0.01, 0.0], "noise_law": [10.0, 1.0, 0.0],
        "seconds_to_target": [0.2, 0.1, np.inf],
    }  # fmt: skip
    return pd.DataFrame(table | columns)


@pytest.mark.parametrize(
    ("position", "columns"),
    [
        (0, {"validation_loss": [0.4, 0.1, 0.3]}),
        (1, {"best_rate": [0.1, 0.4, 0.2]}),
        (1, {"best_rate": [0.2, 0.2, 0.2]}),
        (2, {"seconds_per_step": [1e-5, 2e-4, 4e-5]}),
        (3, {"seconds_to_target": [0.2, np.inf, np.inf]}),
        (3, {"seconds_to_target": [0.2, 0.1, 0.05]}),
        (4, {"noise": [10.1, 1.05, 0.0]}),
        (5, {"bytes_per_step": [8, 7, 10]}),
    ],
)
def test_each_claim_fails_on_figures_against_it_and_only_then(position, columns):
    def judge(table):
        return [claim.held for claim in batch_sizes.judge(table)]

    assert all(judge(make_table()))
    assert [place for place, held in enumerate(judge(make_table(**columns))) if not held] == [position]


def test_a_target_never_reached_is_told_as_never():
    claims = batch_sizes.judge(make_table())
    assert "0.2 (B = 1), 0.1 (B = 10), never (B = 100)" in claims[3].measured


@pytest.mark.long
def test_every_batch_size_sees_the_same_budget_and_the_table_tells_what_it_cost(small_run):
    _, _, table = small_run
    num_examples = table.batch_size.iloc[-1]
    assert table.batch_size.tolist() == [32, 1258]
    seen = table.batch_size * table.steps
    assert ((seen > 2 * num_examples - table.batch_size) & (seen <= 2 * num_examples)).all()
    assert table.best_rate.between(0.03, 0.3).all() and (table.accuracy > 0.5).any()


@pytest.mark.long
def test_the_noise_of_a_network_follows_the_law(small_run):
    _, _, table = small_run
    drawn = table[:-1]
    assert ((drawn.noise - drawn.noise_law).abs() < batch_sizes.STANDARD_ERRORS * drawn.noise_error).all()


@pytest.mark.long
def test_a_step_keeps_at_least_the_hidden_values_of_its_batch_in_memory(small_run):
    _, _, table = small_run
    assert (table.bytes_per_step >= table.batch_size * batch_sizes.HIDDEN * 4).all()


@pytest.mark.long
def test_the_targets_are_read_off_the_curves(small_run):
    _, folder, table = small_run
    curves = pd.read_csv(folder / "curves.csv")
    target = batch_sizes.CLOSE * table.validation_loss.min()
    for row in table.itertuples():
        curve = curves[curves.batch_size == row.batch_size]
        assert curve.validation_loss.iloc[-1] == pytest.approx(row.validation_loss, rel=1e-6)
        reached = curve[curve.validation_loss <= target]
        assert row.examples_to_target == (reached.examples.min() if len(reached) else np.inf)
        assert np.allclose(curve.seconds, curve.examples / row.batch_size * row.seconds_per_step)


@pytest.mark.long
def test_the_exit_status_and_the_files_are_there(small_run, capsys):
    status, folder, _ = small_run
    assert status in (0, 1)
    assert {path.name for path in folder.iterdir()} >= {"table.csv", "table.parquet", "curves.csv", "batch_sizes.png"}


def test_batch_sizes_that_are_not_smaller_than_the_data_are_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"`batch-sizes` must be from 1 to 1257, got \(8, 4000\)\. All examples at once come"):
        batch_sizes.main(["--batch-sizes", "8", "4000", "--output", str(tmp_path)])


def test_the_advice_takes_the_fastest_and_counts_the_others_in_its_units(monkeypatch):
    monkeypatch.setattr(batch_sizes, "measure_spread", lambda loss_fn, params, data: (6.0, params))
    table = make_table(examples_to_target=[300, 600, np.inf])
    runs = [batch_sizes.Run({}, pd.DataFrame(), 3.0)] * 3
    advice = batch_sizes.advise(batch_sizes.Problem((), (), None, None, None, 2.0), table, runs)
    assert "take B = 10 at rate 0.2: the first to reach a validation loss of 0.2, after 0.1 s and 600 examples" in advice
    assert "B = 1: 2 times the seconds, 0.5 times the examples, 0.89 times the memory" in advice
    assert "B = 100: not there within the budget; ends at 0.3" in advice
    assert "B = 3 at the start, 2 at last" in advice


def test_the_memory_of_a_step_is_nan_where_the_compiler_does_not_tell(monkeypatch):
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    descent = gk.descent(half_square, jnp.ones(3), gk.optimizers.gradient_descent(0.1))
    assert np.isnan(batch_sizes.measure_memory(descent, (jnp.asarray(POINTS), jnp.asarray(TARGETS)), 2))
