"""Successive halving as pure rules: who passes a rung, against the published table and a reference written member by member."""

import dataclasses
import itertools
import math
import warnings

import hypothesis
import hypothesis.strategies as st
import jaxtyping
import numpy as np
import pytest

from gradkit.engine.halving import Halving, Verdict, judge, num_kept, rung_steps


def judge_slowly(halving, rung, scores, is_running, configurations, num_configurations, previous):
    """The rule as prose has it: drop who cannot pass, then take the best one by one until all places are taken."""
    means, candidates = {}, []
    for configuration in configurations:
        own = [float(scores[member]) for member in configuration]
        is_sound = True
        for member, score in zip(configuration, own):
            if not is_running[member] or math.isnan(score) or math.isinf(score):
                is_sound = False
        if is_sound:
            means[configuration] = sum(own) / len(own)
            candidates.append(configuration)
    places = num_configurations
    for _ in range(rung + 1):
        places //= halving.eta  # floors of floors are the floor of the whole
    places = places or 1
    passed = []
    while candidates and len(passed) < places:
        best = candidates[0]
        for each in candidates[1:]:
            is_better = means[each] < means[best] if halving.goal == "min" else means[each] > means[best]
            if is_better or (means[each] == means[best] and min(each) < min(best)):
                best = each
        passed.append(best)
        candidates.remove(best)
    pruned, converged = set(), set()
    for configuration in configurations:
        if configuration not in passed:
            pruned |= {member for member in configuration if is_running[member]}
        elif halving.tolerance is not None and previous is not None:
            before = sum(float(previous[member]) for member in configuration) / len(configuration)
            if not math.isinf(before) and abs(means[configuration] - before) <= halving.tolerance * abs(before):
                converged |= set(configuration)
    return Verdict(tuple(sorted(pruned)), tuple(sorted(converged)))


SCORES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, 1.01, 2.0, -2.0, math.nan, math.inf, -math.inf, 1e308]),
    st.floats(-10, 10, width=32),
    st.floats(),
)


@st.composite
def rungs(draw):
    """A rung as it may come: configurations with their seeds in any places, some members gone, some configurations too."""
    num_seeds = draw(st.lists(st.integers(1, 4), min_size=1, max_size=12))
    num_members = sum(num_seeds)
    places = draw(st.permutations(range(num_members)))
    bounds = np.cumsum([0, *num_seeds])
    configurations = [tuple(places[start:stop]) for start, stop in itertools.pairwise(bounds)]
    in_play = draw(st.lists(st.sampled_from(configurations), unique=True))
    settings = {"eta": st.integers(2, 4), "goal": st.sampled_from(["min", "max"])}
    settings["tolerance"] = st.sampled_from([None, 0, 0.01, 0.5, 2])
    columns = st.lists(SCORES, min_size=num_members, max_size=num_members).map(np.array)
    running = st.lists(st.sampled_from([True, True, True, False]), min_size=num_members, max_size=num_members).map(np.array)
    return draw(st.fixed_dictionaries(settings)), draw(st.integers(0, 3)), draw(columns), {
        "is_running": draw(running),
        "configurations": in_play,
        "num_configurations": len(configurations),
        "previous": draw(st.none() | columns),
    }  # fmt: skip


@pytest.fixture
def unchecked():
    """Without the checks of annotations that the tests add: what a person sees."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@hypothesis.settings(max_examples=400, deadline=None, derandomize=True)
@hypothesis.given(rungs())
def test_the_verdict_is_that_of_a_slow_reference(case):
    settings, rung, scores, options = case
    halving = Halving(min_steps=1, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        verdict = judge(halving, rung, scores, **options)
    assert verdict == judge_slowly(halving, rung, scores, **options)


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(rungs())
def test_goals_mirror_each_other_and_only_the_running_are_told_to_stop(case):
    settings, rung, scores, options = case
    halving = Halving(min_steps=1, **settings)
    mirrored = dataclasses.replace(halving, goal="max" if halving.goal == "min" else "min")
    previous = options["previous"]
    reflected = options | {"previous": None if previous is None else -previous}
    verdict = judge(halving, rung, scores, **options)
    assert verdict == judge(mirrored, rung, -scores, **reflected)
    assert verdict == judge(halving, rung, list(scores), **(options | {"configurations": options["configurations"][::-1]}))
    stopped = [*verdict.pruned, *verdict.converged]
    assert len(set(stopped)) == len(stopped) and all(options["is_running"][stopped])


def run_down(halving, num_configurations, num_steps):
    """Members and steps at each stretch when every rung is obeyed, and the steps made by all members together."""
    order = np.random.default_rng(0).permutation(num_configurations)
    scores = np.argsort(order).astype(np.float32)
    in_play, stretches, made, before = [(member,) for member in range(num_configurations)], [], 0, 0
    for rung, step in enumerate([*rung_steps(halving, num_steps), num_steps]):
        made += len(in_play) * (step - before)
        stretches.append((len(in_play), step))
        before = step
        if step < num_steps:
            verdict = judge(
                halving, rung, scores, is_running=np.ones(num_configurations, bool), configurations=in_play,
                num_configurations=num_configurations,
            )  # fmt: skip
            in_play = [each for each in in_play if each[0] not in verdict.pruned]
            assert {each[0] for each in in_play} == set(order[: len(in_play)])
    return stretches, made


@pytest.mark.parametrize(
    ("num_configurations", "halving", "num_steps", "stretches", "made"),
    [
        (243, Halving(min_steps=1), 81, [(243, 1), (81, 3), (27, 9), (9, 27), (3, 81)], 891),
        (81, Halving(min_steps=1), 81, [(81, 1), (27, 3), (9, 9), (3, 27), (1, 81)], 297),
        (20, Halving(min_steps=10, eta=2), 75, [(20, 10), (10, 20), (5, 75)], 575),
        (5, Halving(min_steps=1), 28, [(5, 1), (1, 3), (1, 9), (1, 28)], 32),
        (243, Halving(min_steps=80), 81, [(243, 80), (81, 81)], 243 * 80 + 81),
        (7, Halving(min_steps=3, eta=1000), 2999, [(7, 3), (1, 2999)], 21 + 2996),
    ],
)
def test_budgets_are_those_of_the_table(num_configurations, halving, num_steps, stretches, made):
    assert run_down(halving, num_configurations, num_steps) == (stretches, made)


def test_the_last_stretch_is_no_shorter_than_the_others_but_for_the_first_rung():
    assert rung_steps(Halving(min_steps=1), 80) == (1, 3, 9)
    assert rung_steps(Halving(min_steps=1), 81) == (1, 3, 9, 27)
    assert rung_steps(Halving(min_steps=1), 242) == (1, 3, 9, 27)
    assert rung_steps(Halving(min_steps=1), 243) == (1, 3, 9, 27, 81)
    assert rung_steps(Halving(min_steps=5), 6) == (5,)


@pytest.mark.parametrize("num", [1, 2, 3, 26, 27, 28, 242, 243, 1000])
@pytest.mark.parametrize("eta", [2, 3, 4])
def test_places_never_grow_and_never_end(num, eta):
    places = [num_kept(num, eta, rung) for rung in range(12)]
    assert places == sorted(places, reverse=True) and places[-1] == 1
    assert places[0] == max(1, math.floor(num / eta)) and places[1] == max(1, math.floor(num / eta**2))


def verdict_of(scores, configurations, *, running=None, halving=None, rung=0, previous=None, num=None):
    return judge(
        halving or Halving(min_steps=1), rung, scores, configurations=configurations, previous=previous,
        is_running=[True] * len(scores) if running is None else running, num_configurations=num or len(configurations),
    )  # fmt: skip


def test_ties_go_to_the_configuration_with_the_lowest_member():
    assert verdict_of([1.0, 1.0, 1.0], [(2,), (1,), (0,)]).pruned == (1, 2)
    assert verdict_of([0.0, 3.0, 2.0, 1.0, 9.0, 9.0], [(2, 3), (1, 0), (4, 5)]).pruned == (2, 3, 4, 5)


def test_seeds_stop_together_and_the_mean_decides():
    scores = [0.0, 9.0, 4.0, 4.0, 5.0, 5.0]  # the best single member is in the second best configuration
    assert verdict_of(scores, [(0, 1), (2, 3), (4, 5)]).pruned == (0, 1, 4, 5)


def test_the_siblings_of_a_diverged_member_are_pruned_and_it_is_not():
    scores, running = [0.0, math.nan, 4.0, 4.0, 5.0, 5.0], [True, False, True, True, True, True]
    assert verdict_of(scores, [(0, 1), (2, 3), (4, 5)], running=running).pruned == (0, 4, 5)
    scores[1] = 0.0  # the last finite score of a member that diverged saves nobody
    assert verdict_of(scores, [(0, 1), (2, 3), (4, 5)], running=running).pruned == (0, 4, 5)


def test_fewer_pass_where_too_few_are_sound_and_none_where_none_is():
    configurations = [(member,) for member in range(9)]
    scores = [math.nan] * 7 + [2.0, 1.0]
    assert verdict_of(scores, configurations).pruned == tuple(range(7))
    assert verdict_of([math.inf] * 9, configurations).pruned == tuple(range(9))
    assert verdict_of([1.0] * 9, configurations, running=[False] * 9) == ((), ())
    assert verdict_of([1.0] * 9, [], num=9) == ((), ())


def test_places_are_counted_from_the_original_number():
    scores, in_play = [5.0, 4.0, 3.0, 2.0], [(0,), (1,), (2,), (3,)]
    assert verdict_of(scores, in_play, num=27, rung=1).pruned == (0,)
    assert verdict_of(scores, in_play, num=27, rung=2).pruned == (0, 1, 2)
    assert verdict_of(scores, in_play, num=27, rung=9).pruned == (0, 1, 2)


def test_the_goal_is_kept():
    accurate = Halving(min_steps=1, metric="accuracy", goal="max")
    assert verdict_of([0.5, 0.9, 0.7], [(0,), (1,), (2,)], halving=accurate).pruned == (0, 2)


@pytest.mark.parametrize(
    ("tolerance", "before", "converged"),
    [
        (0.1, 2.0, ()), (0.1, 1.111, (1,)), (0.1, 1.112, ()), (0.1, 0.91, (1,)), (0.1, 0.909, ()), (0, 1.0, (1,)),
        (0.1, -1.0, ()), (2, -1.0, (1,)), (None, 1.0, ()), (0.1, math.nan, ()), (0.1, math.inf, ()), (0.1, None, ()),
    ],
)  # fmt: skip
def test_a_configuration_that_passes_and_no_longer_changes_has_converged(tolerance, before, converged):
    halving = Halving(min_steps=1, tolerance=tolerance)
    previous = None if before is None else [3.0, before, 3.0]
    verdict = verdict_of([3.0, 1.0, 3.0], [(0,), (1,), (2,)], halving=halving, previous=previous)
    assert verdict == ((0, 2), converged)


def test_a_converged_configuration_takes_one_of_the_places():
    halving = Halving(min_steps=1, tolerance=0.1)
    scores, previous = [1.0, 1.0, 2.0, 2.0, 3.0, 3.0], [1.2, 0.8, 9.0, 9.0, 3.0, 3.0]
    verdict = verdict_of(scores, [(0, 1), (2, 3), (4, 5)], halving=halving, previous=previous, num=6)
    assert verdict == ((4, 5), (0, 1))


def test_a_halving_is_a_value(unchecked):
    halving = Halving(min_steps=np.int32(4), eta=np.int64(2), tolerance=np.float32(0.5))
    assert halving == Halving(eta=2, min_steps=4, tolerance=0.5) and hash(halving) == hash(dataclasses.replace(halving))
    assert repr(halving) == "Halving(eta=2, min_steps=4, metric=None, goal=None, over=None, tolerance=0.5)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        halving.eta = 3


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"eta": 1},
            ValueError,
            "`eta` must be a whole number of at least 2, got 1. One configuration in eta goes on at each rung",
        ),
        ({"eta": 2.5}, TypeError, "`eta` must be a whole number of at least 2, got 2.5"),
        ({"min_steps": 0}, ValueError, "`min_steps` must be a whole number of at least 1, got 0. It counts the steps"),
        ({"min_steps": True}, TypeError, "`min_steps` must be a whole number of at least 1, got True"),
        ({"metric": 3}, TypeError, "`metric` must be a name, got 3. Write 'loss', 'validation_loss' or a name"),
        ({"goal": "best"}, ValueError, "`goal` must be one of min, max, got 'best'"),
        (
            {"tolerance": -0.1},
            ValueError,
            "`tolerance` must be a finite number of at least 0, got -0.1. It is a share: 0.01 is one",
        ),
        ({"tolerance": math.inf}, ValueError, "`tolerance` must be a finite number of at least 0, got inf"),
        ({"tolerance": math.nan}, ValueError, "`tolerance` must be a finite number of at least 0, got nan"),
        ({"tolerance": "1%"}, TypeError, "`tolerance` must be a finite number of at least 0, got '1%'"),
        ({"tolerance": True}, TypeError, "`tolerance` must be a finite number of at least 0, got True"),
    ],
)
def test_wrong_settings_are_refused(unchecked, settings, error, message):
    with pytest.raises(error, match=f"^{message}"):
        Halving(**({"min_steps": 1} | settings))


@pytest.mark.parametrize("num_steps", [1, 9, 10])
def test_a_run_that_ends_before_the_first_rung_is_refused(num_steps):
    message = f"^`halving.min_steps` must be below the number of steps, {num_steps}, got 10. Lower it or make more steps, so that"
    with pytest.raises(ValueError, match=message):
        rung_steps(Halving(min_steps=10), num_steps)
