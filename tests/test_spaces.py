"""Spaces know their members, their order and their groups before anything runs, and refuse what cannot be swept."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gradkit.spaces import choice, geomspace, grid, linspace, log_uniform, sample, static, uniform, zipped


def relu(x):
    return x


def test_a_grid_is_the_product_of_its_axes_with_the_last_varying_fastest():
    axes = {"learning_rate": [0.1, 0.01], "width": (8, 16, 32), "seed": range(2)}
    expected = [dict(zip(axes, row)) for row in itertools.product(*axes.values())]
    space = grid(**axes)
    assert list(space) == expected == list(space.members)
    assert len(space) == 12 and space[5] == expected[5] and space[-1] == expected[-1]
    assert space.axes == ("learning_rate", "width", "seed")
    assert space.columns() == {name: [member[name] for member in expected] for name in axes}


def test_zipped_pairs_values_by_position():
    space = zipped(learning_rate=[0.1, 0.2], momentum=[0.9, 0.5])
    assert list(space) == [{"learning_rate": 0.1, "momentum": 0.9}, {"learning_rate": 0.2, "momentum": 0.5}]


def test_a_product_of_spaces_is_the_grid_of_their_axes():
    assert list(grid(a=[1, 2]) * grid(b=[3, 4]) * grid(c=[5])) == list(grid(a=[1, 2], b=[3, 4], c=[5]))
    paired = zipped(a=[1, 2], b=[3, 4]) * grid(seed=range(2))
    assert [tuple(member.values()) for member in paired] == [(1, 3, 0), (1, 3, 1), (2, 4, 0), (2, 4, 1)]


def test_a_join_lists_one_space_after_the_other_whatever_the_order_of_axes():
    joined = grid(a=[1], b=[2, 3]) + grid(b=[4], a=[5])
    assert [(member["a"], member["b"]) for member in joined] == [(1, 2), (1, 3), (5, 4)]
    assert joined.axes == ("a", "b")


def test_an_axis_that_one_side_of_a_join_does_not_have_is_blank_there():
    joined = grid(kind=["sgd"], momentum=[0.5, 1]) + grid(b2=[0.9], kind=["adam"]) * grid(seed=[0, 1])
    assert joined.axes == ("kind", "momentum", "b2", "seed")
    assert list(joined) == [
        {"kind": "sgd", "momentum": 0.5},
        {"kind": "sgd", "momentum": 1.0},
        {"kind": "adam", "b2": 0.9, "seed": 0},
        {"kind": "adam", "b2": 0.9, "seed": 1},
    ]
    assert repr(joined.columns()["momentum"]) == "[0.5, 1.0, blank, blank]"
    assert joined.groups() == (((("kind", "sgd"),), (0, 1)), ((("kind", "adam"),), (2, 3)))
    assert (grid(a=[1]) + grid(b=[2])).groups() == (((), (0,)), ((), (1,)))
    whole = joined * grid(rate=[0.1, 0.2])
    assert len(whole) == 8 and whole[7] == {"kind": "adam", "b2": 0.9, "seed": 1, "rate": 0.2}
    assert (joined + grid(kind=["lion"], momentum=[2]))[4] == {"kind": "lion", "momentum": 2.0}


def test_a_join_keeps_each_axis_of_one_kind():
    column = (grid(a=[1, 2]) + grid(a=[0.5])).columns()["a"]
    assert column == [1.0, 2.0, 0.5] and all(type(value) is float for value in column)


NUMERIC_AXES = {
    "ints": ([1, 2], [1, 2], int),
    "floats": ((0.5, 1.5), [0.5, 1.5], float),
    "mix": ([1, 0.5], [1.0, 0.5], float),
    "range": (range(3), [0, 1, 2], int),
    "numpy ints": (np.arange(3), [0, 1, 2], int),
    "numpy float32": (np.asarray([0.5, 0.25], np.float32), [0.5, 0.25], float),
    "jax array": (jnp.asarray([0.5, 0.25]), [0.5, 0.25], float),
    "list of numpy scalars": ([np.float32(0.5), np.int64(2)], [0.5, 2.0], float),
    "list of jax scalars": ([jnp.asarray(2), jnp.asarray(3)], [2, 3], int),
    "largest int": ([2**31 - 1], [2**31 - 1], int),
}


@pytest.mark.parametrize("values, expected, kind", NUMERIC_AXES.values(), ids=NUMERIC_AXES)
def test_numbers_are_traced_and_of_one_python_type(values, expected, kind):
    space = grid(x=values)
    assert space.traced == ("x",) and space.static == ()
    assert space.columns()["x"] == expected
    assert {type(value) for value in space.columns()["x"]} == {kind}


STATIC_AXES = {
    "strings": ["sgd", "adam"],
    "numpy strings": np.asarray(["sgd", "adam"]),
    "callables": [relu, jnp.tanh],
    "bools": [True, False],
    "none among strings": [None, "cosine"],
    "marked numbers": static([1, 0.5, 2]),
    "marked tuples": static([(64,), (64, 64)]),
    "marked arrays": static([np.zeros(2), {"a": np.ones(2)}]),
}


@pytest.mark.parametrize("values", STATIC_AXES.values(), ids=STATIC_AXES)
def test_what_is_not_a_number_or_is_marked_stays_as_it_is(values):
    space = grid(x=values, seed=range(2))
    assert space.static == ("x",) and space.traced == ("seed",)
    given = getattr(values, "values", values)
    assert all(a is b or a == b for a, b in zip(space.columns()["x"][::2], given))


def test_a_batch_size_is_always_static_and_steps_only_if_marked():
    assert grid(batch_size=[1, None, 64]).static == ("batch_size",)
    assert grid(steps=[10, 20]).traced == grid(steps=range(1, 3)).traced == ("steps",)
    assert grid(steps=static([10, 20])).static == ("steps",)


def test_groups_collect_the_members_of_each_static_assignment_in_order_of_appearance():
    space = grid(rate=[0.1, 0.2], optimizer=["sgd", "adam"], batch_size=[8, None])
    groups = space.groups()
    assert [dict(assignment) for assignment, _ in groups] == [
        {"optimizer": o, "batch_size": b} for o in ("sgd", "adam") for b in (8, None)
    ]
    assert [indices for _, indices in groups] == [(0, 4), (1, 5), (2, 6), (3, 7)]


def test_without_static_axes_there_is_one_group():
    assert grid(rate=[0.1, 0.2]).groups() == (((), (0, 1)),)


def test_groups_tell_values_apart_by_type_and_equality_and_else_by_identity():
    a, b = np.zeros(2), np.zeros(2)
    values = [a, b, a, [1], [1], True, 1, 1.0, math.nan, {"k": a}, {"k": b}]
    groups = [indices for _, indices in grid(x=static(values)).groups()]
    assert groups == [(0, 2), (1,), (3, 4), (5,), (6,), (7,), (8,), (9,), (10,)]


def test_groups_partition_the_members():
    space = grid(x=static([1, 2, 1]), seed=range(3)) + grid(x=static([2]), seed=range(1))
    indices = sorted(index for _, group in space.groups() for index in group)
    assert indices == list(range(len(space)))


@pytest.mark.parametrize("low, high, n", [(1e-5, 10, 32), (np.float32(1e-3), np.float64(1e3), 7), (3, 7, 2)])
def test_geomspace_hits_both_ends_and_has_a_constant_ratio(low, high, n):
    values = geomspace(low, high, n)
    assert values[0] == low and values[-1] == high and len(values) == n
    assert all(type(value) is float for value in values)
    np.testing.assert_allclose(np.divide(values[1:], values[:-1]), (high / low) ** (1 / (n - 1)), rtol=1e-12)


@pytest.mark.parametrize("low, high, n", [(0, 1, 5), (-0.3, 0.1, 11)])
def test_linspace_hits_both_ends_and_has_a_constant_step(low, high, n):
    values = linspace(low, high, n)
    assert values[0] == low and values[-1] == high and all(type(value) is float for value in values)
    np.testing.assert_allclose(np.diff(values), (high - low) / (n - 1), rtol=1e-9)


BOX = {"rate": log_uniform(1e-4, 1), "decay": uniform(-1, 3), "width": choice([8, 16.5]), "name": choice(["a", "b"])}


@pytest.mark.parametrize("method", ["sobol", "random"])
@pytest.mark.parametrize("n", [1, 6, 64])
def test_a_sample_has_n_members_inside_its_distributions(method, n):
    space = sample(n, method=method, key=3, **BOX)
    columns = space.columns()
    assert len(space) == n and space.static == ("name",)
    assert all(1e-4 <= value <= 1 for value in columns["rate"])
    assert all(-1 <= value <= 3 for value in columns["decay"])
    assert set(columns["width"]) <= {8.0, 16.5} and {type(value) for value in columns["width"]} == {float}
    assert set(columns["name"]) <= {"a", "b"}


@pytest.mark.parametrize("method", ["sobol", "random"])
def test_the_same_key_draws_the_same_members_and_another_key_others(method):
    def draw(key):
        return sample(5, method=method, key=key, **BOX).columns()["rate"]

    assert draw(1) == draw(1) != draw(2)
    assert draw(jax.random.key(1)) == draw(jax.random.PRNGKey(1)) != draw(jax.random.key(2))


def test_the_first_members_of_a_sobol_sample_do_not_depend_on_how_many_are_drawn():
    assert list(sample(5, key=4, **BOX)) == list(sample(32, key=4, **BOX))[:5]


def test_a_sobol_sample_puts_one_point_in_each_cell_of_every_axis():
    columns = sample(16, key=5, a=uniform(0, 16), b=log_uniform(1, 2.0**16), c=choice(list(range(16)))).columns()
    cells = [sorted(map(int, columns["a"])), sorted(int(math.log2(b)) for b in columns["b"]), sorted(columns["c"])]
    assert cells == [list(range(16))] * 3


def test_a_sampled_batch_size_is_static_and_may_be_none():
    space = sample(8, batch_size=choice([16, None]), rate=uniform(0, 1))
    assert space.static == ("batch_size",) and set(space.columns()["batch_size"]) == {16, None}


REPRS = {
    "Space of 128 members: learning_rate (32 values, 1e-05 to 10, log-spaced) x seed (4 values, 0 to 3)": grid(
        learning_rate=geomspace(1e-5, 10, 32), seed=range(4)
    ),
    "Space of 1 member: x (1 value, 0.5)": grid(x=[0.5]),
    "Space of 4 members: act (static: relu, None) x batch_size (static: 8, None)": grid(act=[relu, None], batch_size=[8, None]),
    "Space of 4 members: zipped [a (2 values, 1 to 2), b (2 values, 3 to 4)] x c (2 values, 0 to 1)": zipped(a=[1, 2], b=[3, 4])
    * grid(c=[0, 1]),
    "Space of 2 members: [a (1 value, 1) + a (1 value, 7)]": grid(a=[1]) + grid(a=[7]),
    "Space of 4 members: sobol sample [kind (static: 'a')]": sample(4, kind=choice(["a"])),
}


@pytest.mark.parametrize("text", REPRS)
def test_a_space_prints_as_something_to_read(text):
    assert repr(REPRS[text]) == text


def test_a_long_static_axis_prints_short():
    assert len(repr(grid(x=[f"name{i}" for i in range(1000)]))) < 200


def test_a_space_does_not_change():
    with pytest.raises(AttributeError):
        grid(x=[1]).text = "other"


REFUSALS = {
    "empty grid": (grid, {}, "`space` must have at least one axis"),
    "empty zip": (zipped, {}, "`space` must have at least one axis"),
    "empty axis": (grid, {"rate": []}, r"`rate` must have at least one value, got \[\]"),
    "empty static axis": (grid, {"rate": static([])}, "`rate` must have at least one value"),
    "lone number": (grid, {"rate": 0.1}, r"`rate` must be a list.* got 0.1. Write \[0.1\] or leave it a constant in make"),
    "lone string": (grid, {"opt": "adam"}, r"`opt` must be a list.* got 'adam'. Write \['adam'\]"),
    "lone array": (grid, {"rate": np.float32(1)}, "`rate` must be a list"),
    "matrix": (grid, {"rate": np.zeros((2, 2))}, "`rate` must be a list, tuple, range or one-dimensional array"),
    "keys": (grid, {"seed": jax.random.split(jax.random.key(0))}, "`seed` must be a list"),
    "set": (grid, {"rate": {0.1, 0.2}}, "`rate` must be a list"),
    "distribution in a grid": (grid, {"rate": uniform(0, 1)}, r"`rate` must be a list of values.* gk.sample"),
    "string among numbers": (grid, {"rate": [0.1, "a"]}, r"`rate\[1\]` must be a number.*'a'.*gk.static\(\[...\]\)"),
    "none among numbers": (grid, {"rate": [None, 0.1]}, r"`rate\[0\]` must be a number to be traced, got None"),
    "bool among numbers": (grid, {"rate": [1, True]}, r"`rate\[1\]` must be a number to be traced, got True"),
    "tuples": (grid, {"hidden": [(64,), (64, 64)]}, r"`hidden\[0\]` must be a number.*\(64,\).*gk.static"),
    "dicts": (grid, {"x": [{"a": 1}]}, r"`x\[0\]` must be a number"),
    "arrays": (grid, {"x": [np.zeros(2), np.ones(2)]}, r"`x\[0\]` must be a number"),
    "complex": (grid, {"x": [1j]}, r"`x\[0\]` must be a number"),
    "nan": (grid, {"rate": [0.1, math.nan]}, r"`rate\[1\]` must be finite, got nan"),
    "infinite": (grid, {"rate": [math.inf]}, r"`rate\[0\]` must be finite"),
    "beyond int32": (grid, {"x": [2**31]}, r"`x\[0\]` must fit a 32-bit integer, got 2147483648"),
    "negative seed": (grid, {"seed": [0, -1]}, r"`seed\[1\]` must be a whole number of at least 0, got -1"),
    "fractional seed": (grid, {"seed": [0.5]}, r"`seed\[0\]` must be a whole number"),
    "large seed": (grid, {"seed": [2**31]}, r"`seed\[0\]` must fit a 32-bit integer"),
    "static seed": (grid, {"seed": static([1, 2])}, "`seed` must hold whole numbers that are traced"),
    "batch_size 0": (grid, {"batch_size": [0]}, r"`batch_size\[0\]` must be a whole number of at least 1, got 0"),
    "batch_size 1.5": (grid, {"batch_size": [8, 1.5]}, r"`batch_size\[1\]` must be a whole number"),
    "steps none": (grid, {"steps": [None]}, r"`steps\[0\]` must be a whole number of at least 1, got None"),
    "unequal zip": (zipped, {"a": [1, 2], "b": [1]}, r"`zipped` must have axes of one length, got \{'a': 2, 'b': 1\}"),
    "lone static": (static, {"values": 3}, "`static` must be a list"),
    "sample of a list": (sample, {"n": 4, "seed": [1, 2]}, "`seed` must be a distribution.*multiply"),
    "sample of nothing": (sample, {"n": 4}, "`space` must have at least one axis"),
    "sample of none": (sample, {"n": 0, "x": uniform(0, 1)}, "`n` must be a whole number of at least 1"),
    "unknown method": (sample, {"n": 2, "method": "lhs", "x": uniform(0, 1)}, "`method` must be one of sobol, random"),
    "negative key": (sample, {"n": 2, "key": -1, "x": uniform(0, 1)}, "`key` must be a whole number of at least 0"),
    "sampled fractional steps": (sample, {"n": 2, "steps": uniform(1, 9)}, r"`steps\[0\]` must be a whole number"),
    "choice of a mix": (sample, {"n": 2, "x": choice([1, "a"])}, r"`x\[1\]` must be a number"),
    "descending ends": (uniform, {"low": 2, "high": 1}, r"`low, high` must be finite and ascending, got \(2, 1\)"),
    "infinite ends": (uniform, {"low": 0, "high": math.inf}, "`low, high` must be finite and ascending"),
    "log of zero": (log_uniform, {"low": 0, "high": 1}, "`low` must be positive, got 0"),
    "geomspace of zero": (geomspace, {"low": 0, "high": 1, "n": 3}, "`low` must be positive"),
    "one point": (linspace, {"low": 0, "high": 1, "n": 1}, "`n` must be a whole number of at least 2, got 1"),
}


@pytest.mark.parametrize("make, arguments, message", REFUSALS.values(), ids=REFUSALS)
def test_a_wrong_space_is_refused_with_the_place_and_the_remedy(make, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        make(**arguments)


def test_spaces_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match=r"`space` must name each axis once, got \['a'\]"):
        grid(a=[1]) * grid(a=[2], b=[3])
    with pytest.raises(ValueError, match="both traced or both static"):
        grid(a=[1]) + grid(a=static([2]))
    with pytest.raises(TypeError, match=r"`space` must be combined with a space, got \[1, 2\]. Write gk.grid"):
        grid(a=[1]) * [1, 2]
    with pytest.raises(TypeError, match="`space` must be combined with a space, got 1"):
        grid(a=[1]) + 1
