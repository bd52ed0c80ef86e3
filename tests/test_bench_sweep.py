"""The benchmark of sweeps: all ways compute the same, its arithmetic against closed forms, claims that can fail, a small run."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import gradkit as gk
from experiments.bench import cases, contenders, host_devices, scans, sweep, tuning, verdicts
from experiments.bench.contenders import GRADKIT, LOOP, MAP, PLAIN, TORCH, TUNED
from experiments.bench.tuning import Layout

pytestmark = pytest.mark.long

NAMES = sorted(cases.BUILDERS)
SMALL = ["--members", "2", "--seconds", "0.02", "--repeats", "2"]
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")


def first_batch(case, size=8):
    return jax.tree.map(lambda leaf: leaf[:size], case.data)


def products(jaxpr):
    """Operations of all matrix products of a program."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            total += 2 * equation.outvars[0].aval.size * np.prod([equation.invars[0].aval.shape[axis] for axis in contracted])
        total += sum(products(inner.jaxpr) for inner in equation.params.values() if hasattr(inner, "jaxpr"))
    return total


@pytest.mark.parametrize("name", NAMES)
def test_what_gradkit_trains_is_what_the_expert_wrote(name):
    case = cases.build(name)
    batch, descent = first_batch(case), cases.descent(case, 1e-3)

    @jax.jit
    def losses():
        _, info, _ = descent.step(descent.init(jax.random.key(0), None, None), batch)
        return info.loss, cases.mean_loss(case, *cases.start(case), batch)[0]

    of_gradkit, of_expert = losses()
    assert float(of_gradkit) == pytest.approx(float(of_expert), rel=1e-5)


@pytest.mark.parametrize("name", ["tiny", "small", "mnist", "resnet"])
def test_the_operations_are_those_of_the_matrix_products_in_the_program(name):
    case = cases.build(name)
    batch = first_batch(case, case.batch_size)
    program = jax.make_jaxpr(lambda carry: scans.step(case, carry, 1e-3, batch))(scans.begin(case))
    assert products(program.jaxpr) == case.flops


def test_the_operations_of_other_networks_are_not_counted():
    assert np.isnan(cases.build("cnn").flops)


def test_a_transformer_reads_no_token_before_its_time():
    model = cases.transformer_model(6)
    tokens = jnp.stack([jnp.arange(6), jnp.arange(6).at[4].set(31)])
    before, after = jax.jit(lambda: model.apply(model.init(jax.random.key(0)), tokens))()
    assert jnp.array_equal(before[:4], after[:4]) and not jnp.allclose(before[4], after[4])


@pytest.fixture(scope="module")
def resnet():
    return cases.build("resnet", members=4)


@pytest.fixture(scope="module")
def own(resnet):
    """The losses of gradkit."""
    return contenders.gradkit(resnet, 100.0, 0.02).run()


def test_the_plain_version_makes_the_same_steps(resnet, own):
    outcome = contenders.plain(PLAIN, resnet, 100.0, 0.02).run()
    assert outcome.losses.shape == own.losses.shape == (5, 4)
    np.testing.assert_allclose(outcome.losses, own.losses, rtol=1e-4)


def test_chunks_in_two_threads_make_the_same_steps(resnet, own):
    bench = tuning.Workbench(resnet, jax.local_devices()[:1])
    bench.compile(2)
    np.testing.assert_allclose(bench.run(2, 2, steps=7).losses, own.losses, rtol=1e-4)


def test_members_differ_by_their_rates_alone(own):
    assert np.ptp(own.losses[0]) == pytest.approx(0, abs=1e-6) and len(np.unique(own.losses[4])) == 4


@pytest.fixture
def other():
    """A process with two host devices."""
    process = host_devices.HostDevices(2)
    yield process
    process.close()


def test_host_devices_in_another_process_make_the_same_steps_until_it_ends(other):
    other.use(name="tiny", optimizer="gradkit", members=4)
    assert other.probe(width=2, threads=2, seconds=0.01)["rate"] > 0
    outcome = other.run(width=2, threads=2, steps=6)
    own = tuning.Workbench(cases.build("tiny", members=4), jax.local_devices()[:1])
    own.compile(2)
    np.testing.assert_allclose(outcome.losses, own.run(2, 1, 6).losses, rtol=1e-5)
    with pytest.raises(RuntimeError, match="The process with several host devices ended"):
        other.use(name="nothing")


def test_on_an_accelerator_only_the_plain_version_stands_beside_gradkit(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(contenders, "make_plan", lambda *_: None)
    case = cases.build("tiny", members=2)
    benches = {1: tuning.Workbench(case, jax.local_devices()[:1])}
    entered = contenders.on_jax(case, benches, 0.02, widths=(1,))
    assert [contender.name for contender in entered] == [GRADKIT, f"{GRADKIT}, width 1", PLAIN]


def test_layouts_leave_no_thread_without_work():
    assert tuning.layouts(6, 1, (1, 2)) == [Layout(1, 1, 1), Layout(2, 1, 1), Layout(6, 1, 1), Layout(1, 2, 1), Layout(2, 2, 1)]
    assert str(Layout(4, 2, 1)) == "width 4, threads 2" and str(Layout(4, 2, 2)) == "width 4, devices 2"


class Bench:
    """A workbench whose speeds are known; a short look overrates one layout."""

    def __init__(self, rates, overrated):
        self.rates, self.overrated = rates, overrated

    def probe(self, width, threads, seconds):
        return {"rate": self.rates[width, threads] * (2 if (width, threads) == self.overrated else 1), "compile_seconds": 1.0}

    def run(self, width, threads, steps):
        return scans.Outcome(8 * steps / self.rates[width, threads])


def test_the_search_takes_what_is_fastest_at_the_longer_look():
    rates = {(1, 1): 100.0, (2, 1): 300.0, (4, 1): 200.0, (8, 1): 50.0, (1, 2): 250.0, (2, 2): 120.0, (4, 2): 90.0}
    grid = [Layout(*pair, 1) for pair in rates]
    found = tuning.search({1: Bench(rates, overrated=(2, 2))}, 8, grid, 1.0)
    assert found.best == Layout(2, 1, 1) and len(found.probes) == 7


def test_steps_fill_the_time_within_their_bounds():
    assert tuning.steps_for(1000.0, members=10, seconds=2.0) == 200
    assert tuning.steps_for(1.0, members=10, seconds=2.0) == scans.COMPARED
    assert tuning.steps_for(1e9, members=10, seconds=2.0) == cases.MOST_STEPS


def make_runs(seconds):
    """Rounds of a case in which every contender has 4 members make 10 steps."""
    rows = [
        {"case": "mnist", "round": turn, "contender": name, "setting": "", "members": 4, "steps": 10, "seconds": value,
         "gemm_gflops": 100.0, "xla_gemm_gflops": 80.0, "flops": 1e9, "tuning_seconds": 0.0, "compile_seconds": 0.0}
        for name, values in seconds.items() for turn, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_ratios_are_medians_within_the_rounds():
    table = verdicts.tabulate(make_runs({GRADKIT: [1.0, 2.0, 4.0], PLAIN: [3.0, 2.0, 6.0]})).set_index("contender")
    assert table.loc[PLAIN, ["ratio", "lowest_ratio", "highest_ratio"]].tolist() == [1.5, 1.0, 3.0]
    assert table.member_steps_per_second.tolist() == pytest.approx([20.0, 40 / 3])
    assert table.gemm_share.tolist() == pytest.approx([0.2, 0.4 / 3])


def make_table(**ratios):
    """A table in which every bar is met, with some ratios replaced."""
    met = {TUNED: 0.96, PLAIN: 1.9, LOOP: 1.1, TORCH: 51.0}
    rows = [(case, name, ratio, 0.7, 0.9) for case in verdicts.EVERY for name, ratio in ({GRADKIT: 1.0} | met).items()]
    table = pd.DataFrame(rows, columns=["case", "contender", "ratio", "gemm_share", "xla_gemm_share"])
    for key, value in ratios.items():
        table.loc[(table.case == key) & (table.contender == value[0]), value[1]] = value[2]
    return table


@pytest.mark.parametrize(
    ("position", "change"),
    [
        (1, {"cnn": (TUNED, "ratio", 0.94)}),
        (2, {"small": (PLAIN, "ratio", 1.7)}),
        (2, {"resnet": (PLAIN, "ratio", 0.99)}),
        (3, {"transformer": (LOOP, "ratio", 0.99)}),
        (4, {"tiny": (TORCH, "ratio", 49.0)}),
        (5, {"mnist": (GRADKIT, "gemm_share", 0.64)}),
    ],
)
def test_each_claim_fails_on_figures_against_it_and_only_then(position, change):
    assert all(claim.held for claim in verdicts.judge(make_table(), {"tiny": 1e-6}))
    claims = verdicts.judge(make_table(**change), {"tiny": 1e-6})
    assert [place for place, claim in enumerate(claims) if not claim.held] == [position]


def test_different_losses_are_told_and_accelerators_have_one_bar():
    claims = verdicts.judge(make_table(), {"tiny": 1e-6, "cnn": 0.01}, is_cpu=False)
    assert [claim.held for claim in claims] == [False, True] and PLAIN in claims[1].statement


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """A run of the whole benchmark in small, without PyTorch: its exit status, its folder and its claims."""
    folder, claims = tmp_path_factory.mktemp("bench_sweep"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.stories, "tell", lambda question, made: claims.extend(made))
        patch.setattr(sweep, "is_torch_here", lambda: False)
        arguments = ["--cases", "tiny", "--widths", "1", "--host-devices", "1", "--optimizer", "gradkit", "--output", str(folder)]
        status = sweep.main([*SMALL, *arguments])
    return status, folder, claims


def test_all_ways_compute_the_same_and_only_what_ran_is_judged(small_run):
    _, _, claims = small_run
    assert claims[0].held and claims[0].measured.startswith("tiny ")
    assert [name for name in (TUNED, PLAIN, LOOP) if not any(name in claim.statement for claim in claims)] == []
    assert len(claims) == 4


def test_a_run_writes_its_tables_and_its_figure(small_run):
    status, folder, _ = small_run
    assert status == 1, "what is told decides"
    files = {"table.csv", "table.parquet", "runs.csv", "runs.parquet", "bench_sweep.png"}
    assert {path.name for path in folder.iterdir()} == files
    table = pd.read_csv(folder / "table.csv")
    assert table.contender.tolist() == [GRADKIT, f"{GRADKIT}, width 1", PLAIN, MAP, LOOP, TUNED]
    assert len(pd.read_csv(folder / "runs.csv")) == 12
    assert (table.member_steps_per_second > 0).all() and (table.steps >= scans.COMPARED).all()


def test_a_figure_draws_every_rival_of_every_case():
    table = make_table().assign(lowest_ratio=0.9, highest_ratio=60.0)
    axes = verdicts.draw(table).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == list(verdicts.EVERY)
    assert len(axes.patches) == 4 * len(verdicts.EVERY) and axes.get_yscale() == "log"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repeats", "0"], r"`repeats` must be .*, got 0\. The medians are over the rounds"),
        (["--seconds", "0"], r"`seconds` must be positive, got 0\.0"),
        (["--members", "1"], r"`members` must be .*, got 1\. One member is no sweep"),
        (["--host-devices", "0"], r"`host-devices` must be .*, got 0"),
        (["--widths", "0"], r"`widths` must be .*, got 0"),
    ],
)
def test_settings_that_leave_nothing_to_measure_are_refused(arguments, message, tmp_path):
    with pytest.raises(SystemExit, match=message):
        sweep.main([*arguments, "--output", str(tmp_path)])


@needs_torch
@pytest.mark.parametrize("name", NAMES)
def test_the_networks_of_torch_have_as_many_parameters(name):
    from experiments.bench import torch_peers

    case = cases.build(name)
    assert torch_peers.num_parameters(case) == sum(
        leaf.size for leaf in jax.tree.leaves(jax.eval_shape(lambda: cases.start(case)[0]))
    )


@needs_torch
def test_adam_on_stacks_is_that_of_torch_member_by_member():
    import torch

    from experiments.bench import torch_peers

    rates, grads = torch.tensor([0.1, 0.01]), torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    stacks = [{"w": torch.zeros(2, 5)} for _ in range(3)]
    for count, grad in enumerate(grads):
        torch_peers.adam(stacks[0], {"w": grad}, stacks[1], stacks[2], rates, count + 1)
    for member, rate in enumerate(rates.tolist()):
        lone = torch.zeros(5, requires_grad=True)
        optimizer = torch.optim.Adam([lone], lr=rate)
        for grad in grads[:, member]:
            lone.grad = grad.clone()
            optimizer.step()
        torch.testing.assert_close(stacks[0]["w"][member], lone.detach())


@needs_torch
@pytest.mark.parametrize("name", ["resnet", "transformer"])
def test_torch_runs_in_sequence_and_mapped(name):
    from experiments.bench import torch_peers

    entered = torch_peers.on_torch(cases.build(name, members=2), 0.02)
    assert [contender.members for contender in entered] == [1, 2]
    assert all(contender.run().seconds > 0 for contender in entered)


def test_the_plan_is_told_in_the_words_of_layouts():
    assert contenders.describe(gk.Plan(width=4, threads=2)) == str(Layout(4, 2, 1))
    assert contenders.describe(None) == "first guess"
