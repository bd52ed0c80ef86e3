"""What a sweep prints and draws, on results made by hand: nothing is compiled here."""

import numpy as np
import pytest

import gradkit as gk
from gradkit.contracts import Status
from gradkit.questions import Question, Reported
from gradkit.results import Fit, Sweep

STEPS = 100
REPORTED = Reported((), ("validation_loss", "accuracy"), of_all=frozenset({"validation_loss", "accuracy"}))


def fit(ends, starts, *, status=Status.FINISHED, every=1):
    """A member that went from the first numbers to the last."""
    rows = -(-STEPS // every)
    return Fit(
        params=None, state=None, history={"loss": np.linspace(2.0, 1.0, rows)},
        evaluations={"step": np.array([0, STEPS])} | {name: np.array([starts[name], ends[name]]) for name in ends},
        metrics=dict(ends), status=status, steps=STEPS, bad_leaf="loss" if status == Status.DIVERGED else None, seconds=1.0,
        every=every,
        tail={"loss": np.linspace(1.05, 1.0, STEPS // 20)}, lowest_loss=1.0, start_loss=2.0, end_loss=1.0,
    )  # fmt: skip


def sweep(
    space, end_of, *, start=2.0, metric="validation_loss", goal="min", over="seed", noise=0.01, has_shared_batches=False, **given
):
    """A sweep of which a function of the hyper-parameters says how members end; a status ends them otherwise."""
    rng = np.random.default_rng(0)
    hyper, fits = tuple(space), []
    for member in hyper:
        end = end_of(member)
        status = end if isinstance(end, Status) else Status.FINISHED
        value = np.nan if status == Status.DIVERGED else (1.0 if isinstance(end, Status) else end) + noise * rng.normal()
        ends = {"validation_loss": value, "accuracy": value}
        fits.append(fit(ends, dict.fromkeys(ends, start), status=status, **given))
    question = Question(metric=metric, goal=goal, over=over)
    return Sweep(
        hyper, tuple(fits), 1.0, question=question, reported=REPORTED, run_by=tuple(range(len(hyper))),
        has_shared_batches=has_shared_batches,
    )  # fmt: skip


RATES = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
VALLEY = dict(zip(RATES, [1.9, 1.0, 0.1, 1.0, Status.DIVERGED]))


def test_the_answer_says_what_works_and_where_the_best_lies():
    text = repr(sweep(gk.grid(learning_rate=RATES, seed=range(3)), lambda h: VALLEY[h["learning_rate"]]))
    for words in (
        "over 3 seeds, 2 at the start",
        "learning_rate: works from 0.01 to 0.01 (at least 95% of the best gain)",
        "diverged at 1",
        "barely moved, or ended about where they began, at 0.0001",
        "the best value lies inside the range tried",
    ):
        assert words in text
    assert "extend" not in text


def test_an_axis_of_one_value_deletes_nothing():
    result = sweep(gk.grid(learning_rate=RATES, momentum=[0.9], seed=range(3)), lambda h: VALLEY[h["learning_rate"]])
    assert [axis.name for axis in result.summary().axes] == ["learning_rate"]
    bands = result.plot().axes[0].collections
    assert [band.get_label() for band in bands] == ["lowest to highest seed"]


def test_values_within_the_noise_are_said_to_tie_and_not_extended():
    text = repr(sweep(gk.grid(learning_rate=RATES, seed=range(3)), lambda h: 0.1 if h["learning_rate"] > 5e-3 else 1.9))
    assert "no difference beyond seed noise from 0.01 to 1" in text
    assert "extend" not in text


def test_an_edge_is_advised_where_the_metric_still_improves():
    text = repr(sweep(gk.grid(width=[8, 16, 32, 64], seed=range(3)), lambda h: 2 - h["width"] / 40))
    assert "the best value sits at the upper edge of the range: extend it beyond 64" in text


def test_a_far_worse_end_does_not_work():
    space = gk.grid(learning_rate=RATES[:3], seed=range(3))
    ends = dict(zip(RATES, [1.9, 0.269, 0.061]))
    assert "works from 0.01 to 0.01" in repr(sweep(space, lambda h: ends[h["learning_rate"]], start=2.3))


def test_progress_is_judged_by_the_metric_that_was_asked_for():
    space = gk.grid(learning_rate=RATES[:3], seed=range(3))
    ends = dict(zip(RATES, [0.12, 0.5, 0.96]))
    result = sweep(space, lambda h: ends[h["learning_rate"]], start=0.1, metric="accuracy", goal="max")
    text = repr(result)
    assert "best: learning_rate=0.01: accuracy 0.96" in text
    assert "ended worse" not in text
    assert "0% worse" in text
    assert result.summary().axes[0].barely_moved == (1e-4,)


@pytest.mark.parametrize("over", ["fold", "seed"])
def test_folds_are_no_range(over):
    text = repr(sweep(gk.grid(learning_rate=RATES[:3], fold=range(4)), lambda h: 1 - h["learning_rate"], over=over))
    assert "beyond 4" not in text
    assert "fold: " not in text
    assert ("over='fold' averages over it" in text) == (over == "seed")


def test_numbers_near_one_are_not_told_as_one():
    ends = {0.9: 1.0, 0.99: 0.5, 0.9996: 0.1}
    text = repr(sweep(gk.grid(decay=list(ends), seed=range(5)), lambda h: ends[h["decay"]], noise=0.001))
    assert "best: decay=0.9996: " in text
    assert "extend it beyond 0.9996" in text


@pytest.mark.parametrize("name", ["min_samples_split", "action_repeat"])
def test_names_that_end_like_a_replicate_are_axes(name):
    space = gk.grid(**{name: [2.0, 5.0, 10.0, 20.0], "seed": range(3)})
    text = repr(sweep(space, lambda h: 2.0 / h[name]))
    assert f"{name}: works from " in text
    assert "note" not in text


def test_replicates_besides_what_is_averaged_over_are_told():
    space = gk.grid(learning_rate=RATES, fold=range(3), seed=range(2))
    text = repr(sweep(space, lambda h: VALLEY[h["learning_rate"]]))
    assert "fold numbers what is drawn alike and has no best value: over='fold' averages over it instead of over seed" in text
    assert "seed numbers" in repr(sweep(space, lambda h: VALLEY[h["learning_rate"]], over="fold"))
    alone = gk.grid(learning_rate=RATES, fold=[1], seed=range(2))
    assert "numbers what is drawn alike" not in repr(sweep(alone, lambda h: VALLEY[h["learning_rate"]]))


def test_a_noise_that_is_assumed_is_told_where_nothing_gained():
    text = repr(sweep(gk.grid(learning_rate=[0.1]), lambda h: 1.98))
    assert "no configuration improved on its start by more than the noise" in text
    assert "5% of the metric is taken for it" in text


@pytest.mark.parametrize("axis", ["steps", "batch_size"])
def test_seeds_that_share_batches_do_not_show_how_lucky_these_are(axis):
    ends = {100: 0.102, 200: 0.1, 400: 0.104}
    space = gk.grid(**{axis: list(ends), "seed": range(4)})
    shared, own = (sweep(space, lambda h: ends[h[axis]], noise=1e-5, has_shared_batches=is_so) for is_so in (True, False))
    assert f"{axis}: works from 100 to 400" in repr(shared)
    assert "no difference beyond seed noise from 100 to 400" in repr(shared)
    assert "order='per_seed' shows it" in repr(shared)
    assert "the best value lies inside the range tried" in repr(own)
    assert "order='per_seed'" not in repr(own)
    folds = gk.grid(**{axis: list(ends), "fold": range(4)})
    folded = repr(sweep(folds, lambda h: ends[h[axis]], noise=1e-5, has_shared_batches=True, over="fold"))
    assert "each fold saw the same batches" in folded and "per_seed" not in folded
    far = sweep(space, lambda h: {100: 1.0, 200: 0.5, 400: 0.1}[h[axis]], noise=1e-5, has_shared_batches=True)
    assert "extend it beyond 400" in repr(far)


def test_words_are_ranked_with_their_ties():
    ends = {"sgd": 1.0, "adam": 0.1, "lion": 0.1, "rprop": Status.DIVERGED}
    text = repr(sweep(gk.grid(optimizer=list(ends), seed=range(6)), lambda h: ends[h["optimizer"]]))
    assert "optimizer: no difference beyond seed noise between" in text
    assert "; worse: sgd (" in text
    assert "diverged at rprop" in text


def test_batch_sizes_at_equal_steps_have_not_seen_equally_much():
    text = repr(sweep(gk.grid(batch_size=[16, 64], seed=range(3)), lambda h: 0.5))
    assert "after equally many steps batch_size=64 has seen 4x the data of batch_size=16" in text


def test_batch_sizes_are_compared_among_members_of_equally_many_steps():
    note = "after equally many steps batch_size=16 has seen 4x the data of batch_size=4"
    assert note in repr(sweep(gk.grid(batch_size=[4, 16], steps=[50, 100]), lambda h: 0.5))
    assert "after equally many" not in repr(sweep(gk.zipped(batch_size=[4, 16], steps=[200, 50]), lambda h: 0.5))
    assert "after equally many" not in repr(sweep(gk.grid(learning_rate=RATES[:2], steps=[50, 100]), lambda h: 0.5))


def test_values_that_only_python_calls_equal_are_several():
    values = [False, 0.0, 0.1, 1, True]
    result = sweep(gk.grid(flag=gk.static(values), seed=range(3)), lambda h: 1.0 + 0.1 * [repr(h["flag"])].count("True"))
    (words,) = result.summary().rankings
    assert sorted(map(repr, words.values)) == sorted(map(repr, values))
    assert repr(words.values[4]) == "True"
    assert len(result.plot().axes[0].get_xticklabels()) == 5
    two = sweep(gk.grid(flag=gk.static([False, 0.0]), seed=range(3)), lambda h: 0.5)
    assert two.plot().axes[0].get_xlabel() == "flag"
    assert [label.get_text() for label in two.plot().axes[0].get_xticklabels()] == ["0.0", "False"]


def test_functions_of_one_name_are_told_apart():
    def started(scale):
        def init():
            return scale

        return init

    starts = [started(1.0), started(0.2), max]
    result = sweep(gk.grid(start=starts, seed=range(3)), lambda h: 1.5 if h["start"] is max else h["start"]())
    (words,) = result.summary().rankings
    assert words.values == ("init 1", "init 0", "max")
    assert "start: init 1 (0." in repr(result)
    assert "best: start=init 1: " in repr(result)
    assert result.table().start.tolist() == ["init 0"] * 3 + ["init 1"] * 3 + ["max"] * 3
    assert {label.get_text() for label in result.plot().axes[0].get_xticklabels()} == {"init 0", "init 1", "max"}
    assert result.best().hyper["start"] is starts[1]


def test_members_that_were_stopped_say_nothing():
    stops = dict(zip(RATES, [1.9, 1.0, 0.1, Status.STOPPED, Status.STOPPED]))
    text = repr(sweep(gk.grid(learning_rate=RATES, seed=range(3)), lambda h: stops[h["learning_rate"]]))
    assert "6 members did not make all steps and say nothing here" in text
    assert "beyond 1" not in text


def test_nothing_that_trains_is_said_so():
    text = repr(sweep(gk.grid(learning_rate=RATES, seed=range(3)), lambda h: 2.0, noise=0.1))
    assert "no configuration improved on its start by more than the noise" in text
    assert "nothing works" in text
    assert "extend" not in text


def test_one_seed_and_few_values_are_told_to_show_no_noise():
    text = repr(sweep(gk.grid(learning_rate=RATES), lambda h: VALLEY[h["learning_rate"]]))
    assert "one member per value does not show the noise: 5% of the metric is taken for it" in text


JOINED = gk.grid(optimizer=["sgd"], momentum=[0.5, 0.9]) + gk.grid(optimizer=["adam"], b2=[0.99, 0.999])
PRODUCT = gk.grid(optimizer=["sgd", "adam"], momentum=[0.5, 0.9], b2=[0.99, 0.999], seed=range(2))


@pytest.mark.parametrize("space", [JOINED, PRODUCT])
@pytest.mark.parametrize("left", [Status.PRUNED, Status.STOPPED])
def test_an_axis_of_which_no_member_ended_is_not_spoken_of(space, left):
    result = sweep(space, lambda h: 0.1 + 0.1 * h.get("momentum", 0.0) if h["optimizer"] == "sgd" else left)
    text = repr(result)
    for name in ("momentum", "b2", "optimizer"):
        assert result.plot(axis=name)
    if space is JOINED:
        assert "b2: " not in text
    assert all(word not in text for word in ("diverged", "no finite", "nan", "extend"))
    assert ("momentum: works from 0.5 to 0.9" in text) == (left == Status.STOPPED)


@pytest.mark.parametrize("end", [np.inf, np.nan])
def test_an_axis_none_of_whose_members_has_a_finite_metric_says_so(end):
    result = sweep(JOINED, lambda h: 0.1 if h["optimizer"] == "adam" else end)
    text = repr(result)
    assert "momentum: no value has a finite validation_loss" in text
    assert "optimizer: adam (0." in text
    assert "    no finite validation_loss at sgd" in text
    assert result.plot(axis="momentum") and result.plot()


@pytest.mark.parametrize("end", [np.inf, np.nan])
def test_values_without_a_finite_metric_were_tried(end):
    ends = dict(zip(RATES, [1.9, 1.0, 0.1, end, Status.DIVERGED]))
    result = sweep(gk.grid(learning_rate=RATES, seed=range(3)), lambda h: ends[h["learning_rate"]])
    (axis,) = result.summary().axes
    assert (axis.last, axis.edge, axis.not_finite, axis.diverged) == (1.0, None, (0.1,), (1.0,))
    assert "    no finite validation_loss at 0.1" in repr(result)
    assert "extend" not in repr(result)


@pytest.mark.parametrize("end, word", [(np.nan, "no value has a finite validation_loss in every fold"),
                                       (Status.DIVERGED, "at every value a fold diverged")])  # fmt: skip
def test_a_replicate_that_is_lost_everywhere_leaves_progress_unknown(end, word):
    """The others improved: it must not be said that nothing did, or that all diverged."""
    space = gk.grid(learning_rate=RATES, fold=range(3))
    result = sweep(space, lambda h: end if h["fold"] == 2 else 0.5, over="fold")
    assert f"learning_rate: {word}" in repr(result)
    assert "over 2 folds" in repr(result)
    assert "no configuration improved" not in repr(result)
    assert "every value diverged" not in repr(result)


def test_what_is_infinite_from_start_to_end_raises_no_warning():
    ends = dict(zip(RATES, [np.inf, 1.0, 0.1, 1.0, 1.1]))
    text = repr(sweep(gk.grid(learning_rate=RATES), lambda h: ends[h["learning_rate"]], start=np.inf))
    assert "learning_rate: what works is unknown, as the start is" in text
    assert "    no finite validation_loss at 0.0001" in text


@pytest.mark.long
def test_thirty_thousand_rates_of_one_seed_print_a_range():
    rates = np.geomspace(1e-5, 1, 30_000)
    end = lambda h: 2 - 1.8 * np.exp(-(np.log10(h["learning_rate"] / 0.03) ** 2))  # noqa: E731
    (axis,) = sweep(gk.grid(learning_rate=rates), end, noise=0.05).summary().axes
    assert axis.low == pytest.approx(0.03 / 10**0.25, rel=0.3)
    assert axis.high == pytest.approx(0.03 * 10**0.25, rel=0.3)


def test_the_steps_of_the_plot_are_steps_where_the_history_is_thinned():
    result = sweep(gk.grid(learning_rate=RATES, seed=range(2)), lambda h: VALLEY[h["learning_rate"]], every=11)
    lines = result.plot().axes[1].lines
    assert all(line.get_xdata().tolist() == list(range(0, STEPS, 11)) for line in lines)


@pytest.mark.parametrize("every", [1, 3, 11, 20])
def test_curves_end_with_the_last_step_made(every):
    curves = sweep(gk.grid(learning_rate=RATES[:2]), lambda h: VALLEY[h["learning_rate"]], every=every).curves()
    of_first = curves[curves.member == 0].step.tolist()
    assert of_first == [*range(0, STEPS, every), STEPS]
    assert curves.loss.notna().sum() == 2 * (len(of_first) - 1)


def test_a_plot_of_sizes_has_them_in_order_and_none_among_them():
    figure = sweep(gk.grid(batch_size=[None, 128, 16], seed=range(2)), lambda h: 0.5).plot()
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["16", "128", "None"]
