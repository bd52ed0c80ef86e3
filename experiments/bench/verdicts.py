"""From measured times to what they say: a table, claims with the bars they are held to, and a figure."""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments.bench.contenders import GRADKIT, LOOP, MAP, PLAIN, TORCH, TORCH_FUNC, TUNED
from experiments.stories import Claim

EVERY = ("tiny", "small", "mnist", "cnn", "resnet", "transformer")
BARS = {  # gradkit's speed over the contender's, on two CPU cores
    TUNED: dict.fromkeys(EVERY, 0.95),
    PLAIN: dict.fromkeys(EVERY, 1.0) | {"small": 1.8, "mnist": 1.5},
    LOOP: dict.fromkeys(EVERY, 1.0),
    TORCH: {"tiny": 50, "small": 8, "mnist": 3, "cnn": 1.4},
}
BARS_ON_ACCELERATORS = {PLAIN: dict.fromkeys(EVERY, 1.0)}
GEMM_SHARE = {"mnist": 0.65}
TOLERANCE = 1e-3  # float32 rounding, amplified by a few steps of Adam
COLORS = {PLAIN: "#4477aa", MAP: "#66ccee", LOOP: "#228833", TUNED: "#ee6677", TORCH: "#ccbb44", TORCH_FUNC: "#aa3377"}


def tabulate(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per case and contender, from a row per run.

    ``ratio`` is gradkit's speed over the contender's: the median over the rounds, as both ran in each of them, with the lowest
    and the highest. Speeds are medians, too; so are the operations per second of a large product, by the fastest library and
    by XLA, of which the shares are taken.
    """
    speed = runs.members * runs.steps / runs.seconds
    own = runs.assign(own=speed)[runs.contender == GRADKIT].set_index(["case", "round"]).own
    runs = runs.assign(speed=speed, ratio=own.loc[list(zip(runs.case, runs["round"]))].to_numpy() / speed)
    rows = runs.groupby(["case", "contender"], sort=False)
    table = rows.first()[["setting", "members", "steps"]].assign(
        seconds=rows.seconds.median(), member_steps_per_second=rows.speed.median(), ratio=rows.ratio.median(),
        lowest_ratio=rows.ratio.min(), highest_ratio=rows.ratio.max(), tuning_seconds=rows.tuning_seconds.first(),
        compile_seconds=rows.compile_seconds.first(),
    )  # fmt: skip
    gemms = {name: rows[f"{name}_gflops"].median() for name in ("gemm", "xla_gemm")}
    table["gflops"] = table.member_steps_per_second * rows.flops.first() / 1e9
    for name, gemm in gemms.items():
        table[f"{name}_gflops"], table[f"{name}_share"] = gemm, table.gflops / gemm
    return table.reset_index()


def judge(table: pd.DataFrame, differences: dict[str, float], *, is_cpu: bool = True) -> list[Claim]:
    """The claims about the cases and contenders that ran.

    Args:
        table: See :func:`tabulate`.
        differences: ``{case: largest relative difference between the losses of the contenders}``.
        is_cpu: On an accelerator the only bar is the plain version.
    """
    worst = ", ".join(f"{case} {difference:.1g}" for case, difference in differences.items())
    same = Claim("all ways in jax compute the same: the losses of the first five steps agree to 0.001", worst,
                 max(differences.values()) < TOLERANCE)  # fmt: skip
    bars = BARS if is_cpu else BARS_ON_ACCELERATORS
    claims = [_claim_ratios(table, contender, bars[contender]) for contender in bars]
    if is_cpu:
        claims.append(_claim_share(table))
    return [same, *(claim for claim in claims if claim is not None)]


def _claim_ratios(table, contender, bars) -> Claim | None:
    ratios = table[(table.contender == contender) & table.case.isin(bars)].set_index("case").ratio
    if ratios.empty:
        return None
    asked = ", ".join(f"{case} {bars[case]:g}" for case in ratios.index)
    held = all(ratio >= bars[case] for case, ratio in ratios.items())
    return Claim(f"times as fast as {contender}, at least: {asked}", _listed(ratios), held)


def _claim_share(table) -> Claim | None:
    rows = table[(table.contender == GRADKIT) & table.case.isin(GEMM_SHARE)].set_index("case")
    if rows.empty:
        return None
    shares = rows.gemm_share
    asked = ", ".join(f"{case} {GEMM_SHARE[case]:.0%}" for case in shares.index)
    held = all(share >= GEMM_SHARE[case] for case, share in shares.items())
    told = ", ".join(f"{case} {row.gemm_share:.0%}, of XLA's own {row.xla_gemm_share:.0%}" for case, row in rows.iterrows())
    return Claim(f"share of the speed of a large float32 matrix product by the fastest library, at least: {asked}", told, held)


def _listed(ratios) -> str:
    return ", ".join(f"{case} {ratio:.3g}" for case, ratio in ratios.items())


def draw(table: pd.DataFrame):
    """Bars of gradkit's speed over each contender's, case by case, on a logarithmic axis."""
    from matplotlib.figure import Figure

    rivals = table[~table.contender.str.startswith(GRADKIT)]
    cases, names = list(dict.fromkeys(rivals.case)), list(dict.fromkeys(rivals.contender))
    figure = Figure(figsize=(max(2 * len(cases), 5) + 1, 4.8), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(names):
        own = rivals[rivals.contender == name]
        at = np.array([cases.index(case) for case in own.case]) + (place - (len(names) - 1) / 2) / (len(names) + 1)
        bars = axes.bar(at, own.ratio - 1, 1 / (len(names) + 1), bottom=1, label=name, color=COLORS[name])
        spread = [own.ratio - own.lowest_ratio, own.highest_ratio - own.ratio]
        axes.errorbar(at, own.ratio, yerr=np.maximum(spread, 0), fmt="none", ecolor="0.3", elinewidth=0.8)
        for bar, ratio, high, low in zip(bars, own.ratio, own.highest_ratio, own.lowest_ratio):
            edge, anchor = (high * 1.04, "bottom") if ratio >= 1 else (low / 1.04, "top")
            axes.text(bar.get_x() + bar.get_width() / 2, edge, f"{ratio:.2g}", ha="center", va=anchor, fontsize=7, rotation=90)
    axes.axhline(1, color="0.2", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(rivals.lowest_ratio.min() / 1.6, rivals.highest_ratio.max() * 1.8)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xticks(range(len(cases)), cases)
    axes.set(ylabel="gradkit's speed over theirs (log scale)", title="gradkit's sweep against other ways to run it")
    figure.legend(ncols=len(names) if len(cases) > 3 else 3, fontsize=8, frameon=False, loc="outside lower center")
    return figure
