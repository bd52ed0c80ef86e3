"""The frameworks' own loops and gradkit's: in processes of their own, because Keras chooses its backend once."""

import importlib.util
import os
import subprocess
import sys

import pandas as pd
import pytest

from experiments import frameworks


def run(folder):
    arguments = ["--steps", "10", "--repeats", "1", "--hidden", "8", "--output", str(folder)]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-m", "experiments.frameworks", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=settings)


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_the_loops_end_at_the_same_parameters(tmp_path):
    ended = run(tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    table = pd.read_csv(tmp_path / "table.csv")
    names = {"PyTorch", "TensorFlow"} if importlib.util.find_spec("tensorflow") else {"PyTorch"}
    assert set(table.framework) == names
    assert len(table) == 10 * len(names)
    assert table[table.dtype == "float64"].difference.max() < 1e-13
    assert "times PyTorch's" in ended.stdout
    assert (tmp_path / "frameworks.png").stat().st_size > 10_000


def test_a_missing_framework_is_named_and_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(frameworks, "NEEDS", {"PyTorch": "absent_torch", "TensorFlow": "absent_tensorflow"})
    assert frameworks.main(["--output", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "PyTorch is not installed and left out: pip install -e '.[absent_torch]'" in told
    assert "TensorFlow is not installed" in told
