"""The learning-rate sweep as its user runs it, on small settings: answer, files, data formats, refusals."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits, load_iris

import gradkit as gk
from experiments import datasets, learning_rate_sweep

SMALL = ["--members", "5", "--seeds", "2", "--steps", "60", "--low", "1e-4", "--high", "100"]


def tell(capsys, tmp_path, *arguments):
    assert learning_rate_sweep.main([*SMALL, *arguments, "--output", str(tmp_path / "out")]) == 0
    return capsys.readouterr().out


def test_the_answer_names_rate_accuracy_range_and_files(capsys, tmp_path):
    text = tell(capsys, tmp_path)
    for words in (
        "10 members (5 configurations)", "best: learning_rate=0.1: validation_loss", "accuracy 0.9", "± ", "over 2 seeds",
        "learning_rate: works from", "diverged at 100", "barely moved, or ended about where they began, at 0.0001",
        "accuracy of the best rate on the test part: 9",
    ):  # fmt: skip
        assert words in text
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert len(table) == 10
    assert set(table.status) == {"FINISHED", "DIVERGED"}
    pd.testing.assert_frame_equal(table, pd.read_parquet(tmp_path / "out" / "table.parquet"), check_dtype=False)
    assert len(pd.read_parquet(tmp_path / "out" / "curves.parquet")) == 10 * 61
    assert (tmp_path / "out" / "learning_rate_sweep.png").stat().st_size > 20_000


@pytest.mark.long
def test_an_edge_is_said(capsys, tmp_path):
    text = tell(capsys, tmp_path, "--high", "1e-2", "--model", "linear")
    assert "the best value sits at the upper edge of the range: extend it beyond 0.01" in text


def write_flowers(path, drop=None):
    iris = load_iris(as_frame=True)
    frame = iris.data.assign(species=iris.target_names[iris.target])
    if drop is not None:
        frame.iloc[drop, 1] = np.nan
    frame.to_csv(path, index=False)
    return str(path)


@pytest.mark.long
@pytest.mark.few(1)
@pytest.mark.parametrize("settings", [["--optimizer", "adam", "--schedule", "warmup_cosine"], ["--schedule", "linear"]])
def test_a_csv_file_with_words_for_classes(capsys, tmp_path, settings):
    text = tell(capsys, tmp_path, "--data", write_flowers(tmp_path / "flowers.csv"), "--target", "species", *settings)
    assert "accuracy of the best rate on the test part" in text


@pytest.mark.long
def test_an_npz_file_of_images_and_the_cnn(capsys, tmp_path):
    digits = load_digits()
    np.savez(tmp_path / "digits.npz", x=digits.images[:300], y=digits.target[:300])
    text = tell(capsys, tmp_path, "--data", str(tmp_path / "digits.npz"), "--model", "cnn", "--schedule", "cosine")
    assert "accuracy of the best rate on the test part" in text


def test_every_optimizer_on_the_command_line_exists():
    hints = learning_rate_sweep.Settings.__annotations__["optimizer"]
    names = [word.strip(" \"'\n,") for word in hints.removeprefix("Literal[").removesuffix("]").split(",")]
    assert all(hasattr(gk.optimizers, name) for name in names if name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "flowers.csv"], "`data` must name a file that exists, got 'flowers.csv'"),
        (["--data", "flowers.txt"], "`data` must be digits, mnist, fashion-mnist, FILE.npz or FILE.csv"),
        (["--data", "mnist"], "`data-dir` must name the folder that holds mnist/"),
        (["--data", "CSV"], "`target` must name the column to predict"),
        (["--data", "CSV", "--target", "color"], "species.*, got 'color'"),
        (["--data", "HOLES", "--target", "species"], "missing"),
        (["--batch-size", "5000"], "`batch_size` must be at most 1258, the number of examples, got 5000"),
        (["--steps", "0"], "`steps` must be a whole number of at least 1"),
        (["--low", "0"], "low"),
    ],
)
def test_wrong_settings_are_refused_and_nothing_is_written(tmp_path, arguments, message):
    names = {"CSV": lambda: write_flowers(tmp_path / "f.csv"), "HOLES": lambda: write_flowers(tmp_path / "h.csv", drop=7)}
    arguments = [names[word]() if word in names else word for word in arguments]
    with pytest.raises(SystemExit, match=f"(?s)error: .*{message}"):
        learning_rate_sweep.main([*SMALL, *arguments, "--output", str(tmp_path / "out")])
    assert not list(tmp_path.glob("out/*"))


def test_an_output_that_cannot_be_written_is_refused_before_the_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match="`output` must be a folder that can be written"):
        learning_rate_sweep.main([*SMALL, "--output", str(tmp_path / "file" / "out")])


def test_parts_are_disjoint_complete_and_standardized_on_training_data_alone():
    parts = datasets.load("digits")
    sizes = [len(targets) for _, targets in parts]
    assert sum(sizes) == 1797
    assert sizes == pytest.approx([1797 * share for share in (0.7, 0.15, 0.15)], abs=1)
    train, validation = parts.train[0].reshape(sizes[0], -1), parts.validation[0].reshape(sizes[1], -1)
    varying = train.std(0) > 0
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0)[varying], 1, rtol=1e-4)
    assert np.abs(validation.mean(0)).max() > 0.01
    assert parts.num_classes == 10


@pytest.mark.long
@pytest.mark.real_data
def test_mnist_is_read_from_its_folder(real_data):
    parts = datasets.load("mnist", data_dir=str(real_data))
    assert parts.train[0].shape == (42000, 28, 28)
    assert np.bincount(np.concatenate([targets for _, targets in parts])).sum() == 60000
