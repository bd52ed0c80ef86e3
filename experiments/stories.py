"""What experiments share: a claim with its verdict, and the place where tables and figures go."""

from __future__ import annotations

import inspect
import pathlib
import sys
from typing import NamedTuple

import tyro
from rich.console import Console
from rich.table import Table


class Claim(NamedTuple):
    """A statement that an experiment tests: what should be seen, what was measured, and whether it held."""

    statement: str
    measured: str
    held: bool


def tell(question: str, claims: list[Claim]) -> bool:
    """Print the question and every claim with its verdict; return whether all held."""
    console = Console()
    table = Table(title=question, title_justify="left", title_style="bold", show_lines=True)
    for name in ("claim", "measured", "held"):
        table.add_column(name)
    for claim in claims:
        table.add_row(claim.statement, claim.measured, "[green]yes[/]" if claim.held else "[red]no[/]")
    console.print(table)
    return all(claim.held for claim in claims)


def settings(kind: type, arguments: list[str] | None = None):
    """The command line as an instance of a frozen dataclass, whose docstrings are the help page."""
    module = sys.modules[kind.__module__]
    name = module.__spec__.name if module.__spec__ else module.__name__
    return tyro.cli(kind, args=arguments, prog=f"python -m {name}", description=inspect.getdoc(kind))


def make_output(path: str) -> pathlib.Path:
    """The output folder, made and tried before anything runs.

    Raises:
        SystemExit: If it cannot be written.
    """
    folder = pathlib.Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        sys.exit(f"`output` must be a folder that can be written, got {str(folder)!r}: {error.strerror}. Name another one.")
    return folder


def write_table(frame, stem: pathlib.Path) -> list[pathlib.Path]:
    """Write a data frame as CSV and Parquet beside each other."""
    paths = [stem.with_suffix(".csv"), stem.with_suffix(".parquet")]
    frame.to_csv(paths[0], index=False)
    frame.to_parquet(paths[1], index=False)
    return paths


def write_figure(figure, path: pathlib.Path) -> pathlib.Path:
    """Write a matplotlib figure as PNG."""
    figure.savefig(path, dpi=150)
    return path
