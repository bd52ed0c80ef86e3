"""Plans: what they say, that they can be given back, and that widths are measured where it pays, within budget and memory."""

import math
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import adam_net, descend_quadratic, init_net, net_loss, regression_data, same_bits, sgd_net

import gradkit as gk
from gradkit.engine import group, memory, planner
from gradkit.engine import plan as plans
from gradkit.engine.rates import Sample

DATA = regression_data()
SPACE = gk.grid(learning_rate=gk.geomspace(1e-3, 0.1, 6), seed=range(2))
RUN = {"steps": 40, "batch_size": 16}
QUIET = {"progress": False}


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """A cache folder of its own for each test; timings that take no time, and all the time for them."""
    monkeypatch.setenv("GRADKIT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(planner, "PROBE_SECONDS", 1e-3)
    monkeypatch.setattr(planner, "BUDGET_SECONDS", 1e9)
    return tmp_path


@pytest.fixture
def timings(monkeypatch):
    """The widths that are timed."""
    usual, timed = planner._time, []

    def counted(probe, *args, **settings):
        timed.append(probe.run.program.width)
        return usual(probe, *args, **settings)

    monkeypatch.setattr(planner, "_time", counted)
    return timed


def plan(make=adam_net, data=DATA, space=SPACE, **settings):
    return gk.plan(make, data, space, **(RUN | settings))


def sweep(make=adam_net, data=DATA, space=SPACE, **settings):
    return gk.sweep(make, data, space, **(RUN | QUIET | settings))


def test_a_plan_is_settled_and_prints_as_a_table():
    settled = plan(plan=gk.Plan(threads=1))
    (program,) = settled.programs
    assert (program.name, program.num_members, settled.threads) == ("all", 12, 1)
    assert program.num_chunks == math.ceil(12 / program.widths[0])
    assert program.widths[0] in program.rates
    assert settled.run_seconds == pytest.approx(program.num_chunks * program.widths[0] * 40 / program.rates[program.widths[0]])
    assert program.compile_seconds > 0 and program.num_bytes > 0
    head, columns, row, last = str(settled).splitlines()
    assert head.startswith("12 members in 1 program on 1 cpu device (cpu); 1 chunk in flight")
    assert columns.split()[:6] == ["program", "members", "width", "chunks", "memory", "compile"]
    assert row.split()[:4] == ["all", "12", str(program.widths[0]), str(program.num_chunks)]
    assert "MiB" in row and " s " in row and f"{program.widths[0]}: " in row
    assert last.startswith("planned in ")


def test_a_plan_that_is_not_settled_says_so():
    assert str(gk.Plan()) == "Plan, not settled yet: everything is left to the machine"
    assert str(gk.Plan(width=4)) == "Plan, not settled yet: {'width': 4}"


def test_each_program_of_a_plan_has_its_row():
    make = lambda h: gk.descent(net_loss, init_net, {"sgd": optax.sgd, "adam": optax.adam}[h.optimizer](h.learning_rate))  # noqa: E731
    space = gk.grid(optimizer=["sgd", "adam"], learning_rate=[0.1, 0.2], batch_size=[8, 16])
    settled = plan(make, space=space, batch_size=None, plan=gk.Plan(width=2))
    names = [program.name for program in settled.programs]
    assert names == [f"optimizer={kind!r}, batch_size={size}" for kind in ("sgd", "adam") for size in (8, 16)]
    assert all(name in str(settled) for name in names)
    assert str(settled).startswith("8 members in 4 programs")
    assert len({program.fingerprint for program in settled.programs}) == 4


def test_programs_of_functions_of_one_name_are_told_apart():
    make = lambda h: gk.descent(net_loss, init_net, h.optimizer())  # noqa: E731
    space = gk.grid(optimizer=[lambda: optax.sgd(0.1), lambda: optax.sgd(0.2)])
    settled = plan(make, space=space, plan=gk.Plan(width=1))
    assert [program.name for program in settled.programs] == ["optimizer=<lambda> 0", "optimizer=<lambda> 1"]


def test_a_plan_given_back_is_the_plan_of_the_sweep_and_measures_nothing(timings):
    settled = plan()
    num_timings = len(timings)
    result = sweep(plan=settled)
    assert num_timings > 0 and len(timings) == num_timings
    assert result.plan == settled
    assert same_bits(
        [fit.params for fit in result], [fit.params for fit in sweep(plan=gk.Plan(width=settled.programs[0].widths[0]))]
    )
    assert same_bits([fit.params for fit in result], [fit.params for fit in sweep(plan=result.plan)])


@pytest.mark.parametrize(
    "other",
    [
        {"make": sgd_net},
        {"data": tuple(a[:48] for a in DATA), "batch_size": 8},
        {"space": gk.grid(learning_rate=[0.1, 0.2])},
        {"halving": gk.Halving(min_steps=10)},
        {"space": gk.grid(learning_rate=gk.geomspace(1e-3, 0.1, 6), batch_size=[8, 16]), "batch_size": None},
    ],
    ids=["program", "shape", "members", "rungs", "programs"],
)
def test_a_plan_for_another_sweep_is_refused(other):
    settled = plan(plan=gk.Plan(width=4))
    with pytest.raises(ValueError, match=r"(?s)`plan` must be made for these programs, members, .*, got one for 12 members of "
                       r"program [0-9a-f]{8}.* Call gk.plan with the arguments of this sweep"):  # fmt: skip
        sweep(plan=settled, **other)


def test_a_plan_with_another_width_than_its_programs_is_refused():
    settled = plan(plan=gk.Plan(width=4))
    with pytest.raises(ValueError, match=r"`plan.width` must be that of its programs, got 3. Give gk.Plan\(width=...\) alone"):
        sweep(plan=settled._replace(width=3))


def test_other_values_and_other_steps_keep_the_plan():
    """What the rates depend on is the program and its shapes; a longer run of other rates has the same layout."""
    settled = plan(plan=gk.Plan(width=4))
    space = gk.grid(learning_rate=gk.geomspace(1e-2, 0.2, 6), seed=range(2, 4))
    assert sweep(plan=settled, space=space, steps=9).plan == settled


@pytest.mark.parametrize("threads", [2, 5])
def test_the_threads_of_a_plan_change_no_bit(threads):
    alone, several = (sweep(plan=plan(plan=gk.Plan(width=3, threads=count))) for count in (1, threads))
    assert same_bits([fit.params for fit in alone], [fit.params for fit in several])
    assert same_bits([fit.history for fit in alone], [fit.history for fit in several])


def test_rates_are_kept_and_a_second_plan_measures_nothing(folder, timings):
    first = plan()
    (kept,) = (folder / "rates").iterdir()
    assert kept.name == f"{first.programs[0].fingerprint}.json"
    timings.clear()
    second = plan()
    assert timings == []
    assert second.programs == first.programs
    assert sweep().plan.programs == first.programs


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"4", b'{"wide": [1, 2, 3]}', b'{"4": [1]}', b"\xff\xfe\x00"])
def test_a_file_of_rates_that_cannot_be_read_is_measured_anew(folder, timings, content):
    plan()
    (kept,) = (folder / "rates").iterdir()
    kept.write_bytes(content)
    timings.clear()
    assert plan().programs[0].rates.keys() == set(timings)
    assert timings
    assert kept.read_bytes() != content


@pytest.mark.parametrize("is_off", [True, False])
def test_a_folder_that_cannot_be_written_is_no_error(is_off, monkeypatch, tmp_path):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("GRADKIT_CACHE_DIR", "off" if is_off else str(tmp_path / "taken"))
    assert plan().programs[0].rates
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_short_sweep_is_not_measured_and_a_long_one_is(folder, monkeypatch):
    assert sweep().plan.programs[0].rates == {}
    assert not (folder / "rates").exists()
    monkeypatch.setattr(planner, "WORTHWHILE_SECONDS", 0)
    long = sweep().plan
    assert long.programs[0].rates and long.planning_seconds == 0
    assert long.programs[0].widths[0] in long.programs[0].rates


def test_a_width_that_is_given_is_not_measured(timings):
    assert plan(plan=gk.Plan(width=5)).programs[0].widths == (5,)
    assert sweep(plan=gk.Plan(width=5)).plan.programs[0].num_chunks == 3
    assert timings == []


@pytest.mark.long
def test_a_stream_is_planned_and_an_iterator_that_planning_would_use_up_is_refused(timings):
    batches = lambda start: (tuple(a[:8] for a in DATA) for _ in range(start, 40))  # noqa: E731
    settled = plan(data=gk.stream(batches), batch_size=None)
    assert set(timings) == settled.programs[0].rates.keys() != set()
    assert sweep(data=gk.stream(batches), batch_size=None, plan=settled)[0].status == gk.Status.FINISHED
    timings.clear()
    with pytest.raises(ValueError, match="`data` must be drawn again for the sweep, got an iterator"):
        plan(data=batches(0), batch_size=None)
    assert sweep(sgd_net, data=batches(0), batch_size=None).plan.programs[0].rates == {}
    assert timings == []


class Machine:
    """A machine made up: how fast each width is, how long it compiles, where its memory ends; its clock stands otherwise."""

    def __init__(self, monkeypatch, speed, *, guess=1, compile_seconds=0.0, timing_seconds=0.0, out_of_memory_above=None):
        self.speed, self.compile_seconds, self.timing_seconds = speed, compile_seconds, timing_seconds
        self.limit, self.clock, self.probed = out_of_memory_above or math.inf, 0.0, []
        monkeypatch.setattr(planner, "time", types.SimpleNamespace(perf_counter=lambda: self.clock))
        monkeypatch.setattr(planner, "_probe", self.probe)
        monkeypatch.setattr(planner, "_time", self.time)
        monkeypatch.setattr(plans, "_fitting_lanes", lambda state_bytes: guess)

    def probe(self, run, settled, width, like):
        self.probed.append(width)
        self.clock += self.compile_seconds
        if width > self.limit:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.")
        return planner.Probe(group.at_width(run, settled, width), None, None, self.compile_seconds, self.compile_seconds, None)

    def time(self, probe, settled, *, seconds=1, repeats=3):
        self.clock += self.timing_seconds if seconds else 0
        return Sample(float(self.speed(probe.run.program.width)), self.compile_seconds, None)

    def plan(self, num_members=1024, *, steps=100, threads=1, **settings):
        space = gk.grid(learning_rate=np.linspace(0.001, 0.1, num_members))
        return gk.plan(descend_quadratic, jnp.zeros(1), space, steps=steps, plan=gk.Plan(threads=threads), **settings)


@pytest.fixture
def machine(monkeypatch):
    """``machine(speed, ...)``."""
    return lambda speed, **settings: Machine(monkeypatch, speed, **settings)


@pytest.mark.parametrize("guess", [1, 16, 1024])
@pytest.mark.parametrize("peak", [1, 2, 8, 16, 64, 1024])
def test_the_climb_finds_the_fastest_width_of_every_single_peak(machine, guess, peak):
    made_up = machine(lambda width: 1000 / (1 + abs(math.log2(width / peak))), guess=guess)
    assert made_up.plan().programs[0].widths == (peak,)
    assert len(made_up.probed) == len(set(made_up.probed))


@pytest.mark.parametrize(("steps", "budget"), [(100, 2.0), (10**6, 0.02 * 1024 * 10**6 / 1e6)])
@pytest.mark.parametrize("compile_seconds", [0.3, 0.7, 5.0])
def test_planning_keeps_its_budget(machine, monkeypatch, steps, budget, compile_seconds):
    """The clock starts when the first guess is timed; the longer the run, the longer planning may take."""
    monkeypatch.setattr(planner, "BUDGET_SECONDS", 2.0)
    made_up = machine(lambda width: 1e6 * width, compile_seconds=compile_seconds, timing_seconds=1e-3)
    made_up.plan(steps=steps, history_every=steps)
    spent = made_up.clock - compile_seconds - 1e-3
    assert spent <= budget + 1e-9
    num_possible = int(budget / (compile_seconds + 1e-3 + 2e-3 * planner.PROBES))
    assert len(made_up.probed) - 1 >= min(num_possible - 1, 10)


def test_no_width_leaves_a_thread_idle(machine):
    made_up = machine(lambda width: width)
    assert made_up.plan(10, threads=2).programs[0].widths == (5,)
    assert made_up.probed == [1, 2, 4, 5]


def test_no_width_is_tried_that_does_not_fit(machine, monkeypatch):
    made_up = machine(lambda width: width)
    monkeypatch.setattr(memory, "fits", lambda run, settled, width, samples: width <= 8)
    assert made_up.plan().programs[0].widths == (8,)
    assert made_up.probed == [1, 2, 4, 8]


@pytest.mark.parametrize("guess", [2, 4, 64])
def test_planning_outlives_a_lack_of_memory(machine, guess):
    made_up = machine(lambda width: width, guess=guess, out_of_memory_above=4)
    assert made_up.plan().programs[0].widths == (4,)
    assert made_up.probed[: guess.bit_length() - 2] == [guess // 2**turn for turn in range(guess.bit_length() - 2)]
    assert 8 in made_up.probed


def test_what_a_small_sweep_measured_does_not_bind_a_large_one(machine):
    made_up = machine(lambda width: width, guess=64)
    assert made_up.plan(6).programs[0].widths == (6,)
    assert made_up.plan().programs[0].widths == (1024,)


def known(monkeypatch, samples):
    """Let these rates be those found on disk, and enough."""
    monkeypatch.setattr(planner.rates, "load", lambda name: samples)
    monkeypatch.setattr(planner, "_measured", lambda run, settled, found, stages, *, is_asked: found)


def rates(**by_width):
    return {int(name[1:]): Sample(float(rate), 0.1, None) for name, rate in by_width.items()}


def planned(num_members, threads=1, make=descend_quadratic, **settings):
    space = gk.grid(learning_rate=np.linspace(0.001, 0.1, num_members))
    request = {"plan": gk.Plan(threads=threads), "steps": 100} | settings
    return gk.plan(make, jnp.zeros(1), space, **request).programs[0]


@pytest.mark.parametrize(
    ("num_members", "threads", "width"),
    [
        (800, 1, 8),  # full chunks: the fastest
        (10, 1, 5),  # chunks of 8 would be 6 lanes short of full
        (12, 1, 4),
        (8, 2, 4),  # one chunk of 8 would leave a thread without work
        (9, 2, 5),  # two chunks of 5 take one round, three of 4 take two
    ],
)
def test_the_width_that_ends_soonest_counts_padding_and_idle_threads(monkeypatch, num_members, threads, width):
    samples = rates(w8=100, w5=85, w4=90, w1=40)
    known(monkeypatch, samples)
    assert planned(num_members, threads).widths == (width,)

    def seconds(width):
        """Each thread takes the next chunk as soon as it is free; a full chunk takes as long however many count in it."""
        free = np.zeros(threads)
        for _ in range(math.ceil(num_members / width)):
            free[free.argmin()] += width * threads / samples[width].rate
        return free.max()

    possible = [each for each in samples if each * threads < num_members + threads]
    assert seconds(width) == min(map(seconds, possible))


def test_rungs_narrow_only_where_that_ends_sooner(monkeypatch):
    halving = gk.Halving(min_steps=1)  # after 1, 3, 9 and 27 steps of 100: 27, 9, 3 and 1 of 81 members
    for samples, widths in (
        (rates(w8=100, w4=90, w2=50, w1=30), (8, 4, 4, 4, 1)),
        (rates(w8=100, w4=40, w2=15, w1=6), (8,) * 5),  # eight lanes take less than four: padding is free
        (rates(w8=100, w4=100, w2=100, w1=90), (2, 2, 2, 1, 1)),
        (rates(w8=100, w1=90), (8,) * 5),  # only widths that were measured, one after another
    ):
        known(monkeypatch, samples)
        found = planned(81, halving=halving).widths
        expected, width = [found[0]], found[0]
        cost = lambda width, number: math.ceil(number / width) * width / samples[width].rate  # noqa: B023, E731
        for number in (27, 9, 3, 1):
            while width // 2 in samples and cost(width // 2, number) < cost(width, number):
                width //= 2
            expected.append(width)
        assert found == tuple(expected)
        assert found == widths


def test_a_halved_run_is_estimated_by_what_its_rungs_leave(monkeypatch):
    known(monkeypatch, rates(w8=100, w4=90))
    whole = planned(80).run_seconds
    assert whole == pytest.approx(80 * 100 / 100)
    halved = planned(80, halving=gk.Halving(eta=2, min_steps=50), plan=gk.Plan(width=8, threads=1)).run_seconds
    assert halved == pytest.approx(80 * 50 / 100 + 40 * 50 / 100)


def test_memory_lies_on_the_line_through_the_widths_that_were_measured(monkeypatch):
    line = lambda width: 10**6 + 5000 * width  # noqa: E731
    known(monkeypatch, {width: Sample(1.0, 0.1, line(width)) for width in (2, 4)})
    for width in (1, 3, 64):
        told = planned(64, plan=gk.Plan(width=width, threads=1)).num_bytes
        assert told == line(width)
    known(monkeypatch, {4: Sample(1.0, 0.1, 8000)})
    assert [planned(64, plan=gk.Plan(width=width, threads=1)).num_bytes for width in (1, 4, 16)] == [8000, 8000, 32000]


def test_a_width_that_does_not_fit_is_refused_and_one_left_open_is_narrowed(monkeypatch):
    known(monkeypatch, {width: Sample(float(width), 0.1, 1000 * width) for width in (8, 16)})
    monkeypatch.setattr(memory, "available", lambda device: 10_000.0)
    with pytest.raises(ValueError, match=r"`plan.width` must fit the memory, .* GiB for 1 chunks? in flight, got 16, which needs "
                       r".* GiB a chunk\. Leave it out, make it smaller"):  # fmt: skip
        planned(64, plan=gk.Plan(width=16, threads=1))
    assert planned(64, plan=gk.Plan(width=8, threads=1)).widths == (8,)
    with pytest.raises(ValueError, match=r"`plan.width` must fit the memory"):
        planned(64, plan=gk.Plan(width=8, threads=2))
    assert planned(64, threads=1).widths == (8,)
    assert planned(64, threads=2).widths == (4,)


def test_memory_that_nobody_tells_is_no_limit(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: None)
    assert planned(64, plan=gk.Plan(width=64, threads=1)).widths == (64,)
