"""Orders are laws of the key alone; sources make the batches that the orders say; readers read what the files hold."""

import functools
import gc
import gzip
import hashlib
import re
import struct
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from gradkit.contracts import Source
from gradkit.data import (
    check_arrays,
    drawn,
    from_arrays,
    read_csv,
    read_idx,
    read_npz,
    source,
    split,
    standardize,
    stream,
)
from gradkit.data.orders import shuffled_epochs
from gradkit.keys import DRAW, as_key, branch, key_words
from gradkit.trees import take_lane

SIZES = [(1, 1), (7, 1), (7, 3), (12, 4), (5, 5), (100, 64)]  # n, batch_size
KEYS = {"int": 3, "typed": jax.random.key(3), "raw": jax.random.PRNGKey(3)}


def over_sizes(test):
    return pytest.mark.parametrize("n, batch_size", SIZES)(test)


@over_sizes
def test_each_epoch_sees_every_example_once(n, batch_size):
    line = shuffled_epochs(n, batch_size=batch_size, key=0)(None, 0, 3 * n).ravel()
    epochs = line.reshape(-1, n)
    assert len(epochs) == 3 * batch_size
    assert (np.sort(epochs, axis=1) == np.arange(n)).all()


@over_sizes
def test_a_window_asked_for_directly_equals_the_steps_one_by_one(n, batch_size):
    order = shuffled_epochs(n, batch_size=batch_size, key=0)
    one_by_one = np.concatenate([order(None, step, 1) for step in range(40)])
    for start, count in [(0, 40), (13, 9), (39, 1), (0, 0), (20, 0)]:
        window = shuffled_epochs(n, batch_size=batch_size, key=0)(None, start, count)
        assert window.dtype == np.int32 and window.shape == (count, batch_size)
        np.testing.assert_array_equal(window, one_by_one[start : start + count])


def test_an_order_does_not_depend_on_what_was_asked_before():
    order = shuffled_epochs(10, batch_size=3, key=0)
    first = order(1, 100, 5)
    for seed in (None, *range(20)):
        order(seed, 7, 60)
    np.testing.assert_array_equal(order(1, 100, 5), first)


def test_keys_seeds_and_epochs_have_orders_of_their_own():
    orders = [shuffled_epochs(50, batch_size=50, key=key)(seed, 0, 3) for key in (0, 1, 2**31) for seed in (None, 0, 1)]
    epochs = np.concatenate(orders)
    assert len(np.unique(epochs, axis=0)) == len(epochs) == 27


def test_places_in_an_epoch_are_uniform():
    epochs = shuffled_epochs(4, batch_size=4, key=0)(None, 0, 6000)
    counts = np.stack([(epochs == row).sum(axis=0) for row in range(4)])
    assert abs(counts - 1500).max() < 5 * np.sqrt(6000 * 1 / 4 * 3 / 4)


def test_a_key_is_the_same_as_an_int_typed_or_raw():
    assert {key_words(key) for key in KEYS.values()} == {(0, 3)}
    assert all(as_key(key) == jax.random.key(3) for key in KEYS.values())
    assert key_words(np.int64(3)) == key_words(jnp.int32(3)) == (0, 3)
    assert as_key(jax.random.key(3, impl="rbg")) == jax.random.key(3, impl="rbg")


@pytest.mark.parametrize(
    "key, message",
    [
        (-1, "`key` must be a whole number of at least 0, got -1"),
        (0.5, "`key` must be a whole number of at least 0, got 0.5"),
        (2**32, "`key` must fit in 32 bits, got 4294967296"),
        (jax.random.split(jax.random.key(0)), r"`key` must be a single key, got \(2,\)"),
        (np.zeros(3), r"`key` must be an int or a jax key, uint32\[2\] if raw"),
    ],
)
def test_what_is_no_key_is_refused(key, message):
    with pytest.raises((ValueError, TypeError), match=message):
        as_key(key)


class Pair(NamedTuple):
    inputs: jax.Array
    targets: jax.Array


def pair(n=7):
    return Pair(np.arange(2.0 * n, dtype=np.float32).reshape(n, 2), np.arange(n))


def batches(source: Source, start: int, count: int, seed=None):
    tickets = source.tickets(seed, start, count)
    return [source.batch(source.resident, take_lane(tickets, i)) for i in range(count)]


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_all_examples_at_once_are_the_data_in_their_order():
    arrays = from_arrays(pair(), batch_size=None, key=0, per_seed=True)
    assert jax.tree.leaves(arrays.tickets(None, 0, 5)) == []
    assert_same(batches(arrays, 0, 2)[1], check_arrays("data", pair()))
    assert_same(arrays.start, arrays.example())
    assert not arrays.is_ordered and not arrays.is_lockstep and arrays.is_replayable and arrays.note() == ""


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_a_mini_batch_holds_the_rows_that_the_order_names(batch_size):
    arrays = from_arrays(pair(), batch_size=batch_size, key=0)
    order = shuffled_epochs(7, batch_size=batch_size, key=0)(None, 4, 5)
    for batch, rows in zip(batches(arrays, 4, 5), order):
        assert_same(batch, check_arrays("data", Pair(*(leaf[rows] for leaf in pair()))))
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), arrays.example()) == jax.tree.map(
            lambda leaf: (leaf.shape, leaf.dtype), batch
        )
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves((arrays.resident, arrays.start)))


def test_a_seed_changes_the_order_only_where_asked():
    shared, ordered = (from_arrays(pair(50), batch_size=9, key=0, per_seed=per_seed) for per_seed in (False, True))
    assert not shared.is_ordered and ordered.is_ordered
    np.testing.assert_array_equal(shared.tickets(1, 3, 4), shared.tickets(None, 3, 4))
    assert (ordered.tickets(1, 3, 4) != ordered.tickets(2, 3, 4)).any()
    np.testing.assert_array_equal(ordered.tickets(None, 3, 4), shared.tickets(None, 3, 4))


def test_rows_are_gathered_under_jit_and_vmap():
    arrays = from_arrays({"x": np.eye(6), "key": jax.random.split(jax.random.key(0), 6)}, batch_size=2, key=0)
    tickets = arrays.tickets(None, 0, 3)
    mapped = jax.jit(jax.vmap(arrays.batch, (None, 0)))(arrays.resident, tickets)
    np.testing.assert_array_equal(mapped["x"], np.eye(6)[tickets])
    assert (mapped["key"] == arrays.resident["key"][tickets]).all()


def test_sources_of_a_kind_share_their_batch_function():
    assert from_arrays(pair(), batch_size=1, key=0).batch is from_arrays(pair(9), batch_size=2, key=1).batch
    assert from_arrays(pair(), batch_size=None, key=0).batch is from_arrays(pair(9), batch_size=None, key=1).batch
    assert source(iter([np.ones(2)])).batch is source(stream(lambda start: [np.ones(3)])).batch
    first, again = source(drawn(draw_normal)).batch, source(drawn(draw_normal), key=1).batch
    assert first == again and hash(first) == hash(again)
    assert first != source(drawn(functools.partial(draw_normal))).batch


def draw_normal(key):
    return {"x": jax.random.normal(key, (3,))}


@pytest.mark.parametrize("key", [*KEYS.values(), jax.random.key(3, impl="rbg")], ids=[*KEYS, "rbg"])
def test_a_draw_at_a_step_uses_the_key_folded_with_the_step(key):
    draws = source(drawn(draw_normal), key=key)
    for step, batch in enumerate(batches(draws, 5, 3), start=5):
        assert_same(batch, draw_normal(jax.random.fold_in(branch(as_key(key), DRAW), step)))
    assert isinstance(draws.tickets(None, 0, 2), np.ndarray) and len(draws.tickets(None, 0, 0)) == 0
    assert draws.resident == () and draws.is_replayable and not draws.is_lockstep and not draws.is_ordered
    assert_same(draws.start, batches(draws, 0, 1)[0])


def test_draws_per_seed_fold_the_seed_first():
    draws = source(drawn(draw_normal), key=3, per_seed=True)
    folded = jax.random.fold_in(jax.random.fold_in(branch(jax.random.key(3), DRAW), 8), 2)
    assert draws.is_ordered
    assert_same(batches(draws, 2, 1, seed=8)[0], draw_normal(folded))


def numbered(start=0, stop=None):
    """Batches that carry their step, float64 as most loaders yield them."""
    step = start
    while stop is None or step < stop:
        yield {"x": np.full((2, 3), step, np.float64), "step": step}
        step += 1


class Loader:
    """Iterable, but neither an iterator nor a pytree: as a data loader is."""

    def __iter__(self):
        return numbered(stop=5)


def ended(make=numbered):
    return stream(lambda start: make(start, 5))


STREAMS = {
    "generator": (lambda: numbered(stop=5), False),
    "iterator over a list": (lambda: iter(list(numbered(stop=5))), False),
    "loader": (Loader, False),
    "stream": (ended, True),
}


@pytest.mark.parametrize("make, is_replayable", STREAMS.values(), ids=STREAMS)
def test_a_stream_gives_its_batches_in_order_and_says_when_it_ends(make, is_replayable):
    streamed = source(make())
    assert streamed.is_lockstep and streamed.is_replayable == is_replayable and not streamed.is_ordered
    assert streamed.resident == () and streamed.note() == ""
    assert streamed.tickets(None, 0, 2)["step"].tolist() == [0, 1]
    assert streamed.tickets(None, 2, 2)["x"].shape == (2, 2, 3)
    assert streamed.tickets(None, 4, 3)["step"].tolist() == [4]
    assert streamed.note() == "the stream ended after 5 batches: it has no more"
    empty = streamed.tickets(None, 5, 3)
    assert empty["x"].shape == (0, 2, 3) and empty["step"].shape == (0,)


def test_the_first_batch_is_an_example_and_is_not_lost():
    streamed = source(numbered(stop=2))
    assert_same(streamed.start, {"x": np.zeros((2, 3), np.float32), "step": np.asarray(0, np.int32)})
    assert_same(streamed.example(), streamed.start)
    assert_same(batches(streamed, 0, 1)[0], streamed.start)


def test_a_stream_can_be_resumed_and_replayed_at_any_step():
    streamed = source(ended())
    for start in (3, 0, 1, 1, 4):
        assert streamed.tickets(None, start, 1)["step"].tolist() == [start]
    streamed.tickets(None, 4, 9)
    assert streamed.note()
    assert streamed.tickets(None, 2, 2)["step"].tolist() == [2, 3] and streamed.note() == ""


def test_a_plain_iterable_refuses_to_go_back():
    streamed = source(numbered())
    streamed.tickets(None, 0, 3)
    with pytest.raises(ValueError, match=r"`data` must give its batches in order, and step 3 is next, got 0. .*gk.stream"):
        streamed.tickets(None, 0, 3)


def test_a_generator_goes_on_after_a_run_and_one_that_a_stream_opened_is_closed():
    closed = []

    def counted():
        try:
            yield from map(np.asarray, np.arange(9.0)[:, None])
        finally:
            closed.append("now")

    batches = counted()
    for first in (0, 4):
        streamed = source(batches)
        assert streamed.tickets(None, 0, 4).ravel().tolist() == [*range(first, first + 4)]
        del streamed
        gc.collect()
    assert not closed
    opened = source(stream(lambda start: counted()))
    opened.tickets(None, 0, 2)
    del opened
    gc.collect()
    assert closed == ["now"]


def test_a_stream_may_fill_the_same_buffer_again():
    def refilled():
        buffer = np.zeros(2, np.float32)
        for step in range(4):
            buffer[:] = step
            yield buffer

    streamed = source(refilled())
    np.testing.assert_array_equal(streamed.tickets(None, 0, 4), np.repeat(np.arange(4.0), 2).reshape(4, 2))
    np.testing.assert_array_equal(streamed.start, [0, 0])


def broken():
    yield np.ones(2)
    yield np.ones(2)
    raise RuntimeError("disk on fire")


UNLIKE = {
    "shorter": (np.ones((1, 2), np.float32), r"the next has `batch.x` float32\[1, 2\], the first float32\[3, 2\]"),
    "other dtype": (np.ones((3, 2), np.int32), r"the next has `batch.x` int32\[3, 2\], the first float32\[3, 2\]"),
    "other structure": ((np.ones((3, 2)),), "the next is PyTreeDef.*, the first was PyTreeDef"),
    "not numbers": (np.full((3, 2), "a"), "it raised TypeError: `batch.x` must hold numbers"),
}


@pytest.mark.parametrize("odd, message", UNLIKE.values(), ids=UNLIKE)
def test_a_batch_unlike_the_first_ends_the_stream_with_its_leaf_and_shapes(odd, message):
    streamed = source(iter([{"x": np.ones((3, 2))}, {"x": np.ones((3, 2))}, {"x": odd}, {"x": np.ones((3, 2))}]))
    assert streamed.tickets(None, 0, 4)["x"].shape == (2, 3, 2)
    assert re.match(f"the stream ended after 2 batches: {message}", streamed.note())
    assert streamed.tickets(None, 2, 2)["x"].shape == (0, 3, 2)


def test_an_error_of_the_stream_ends_it_with_its_words():
    streamed = source(broken())
    assert streamed.tickets(None, 0, 5).shape == (2, 2)
    assert streamed.note() == "the stream ended after 2 batches: it raised RuntimeError: disk on fire"


def test_an_interrupt_passes_through_a_stream_and_loses_nothing():
    interrupts = iter([False, False, True, False, False, False])

    def interrupted(start):
        for step in range(start, 5):
            if next(interrupts, False):
                raise KeyboardInterrupt
            yield np.asarray(step)

    streamed = source(stream(interrupted))
    with pytest.raises(KeyboardInterrupt):
        streamed.tickets(None, 0, 5)
    assert streamed.tickets(None, 0, 5).tolist() == [0, 1, 2, 3, 4]


def test_pytrees_of_arrays_are_data_and_not_streams():
    for data in (np.ones(3), jnp.ones(3), [np.ones(3), np.ones((3, 2))], {"a": np.ones(3)}, pd.DataFrame({"a": [1.0]})):
        assert not source(data, batch_size=1).is_lockstep


def test_float64_follows_jax(x64):
    assert check_arrays("data", np.ones(2)).dtype == np.float64
    assert source(iter([np.ones(2)])).start.dtype == np.float64


def test_narrow_floats_are_checked_and_kept():
    assert check_arrays("data", jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match=r"must be finite in bfloat16, got 1 of 2 values .*\(the first: nan at \[1\]\)"):
        check_arrays("data", jnp.asarray([1, np.nan], jnp.bfloat16))


HOLE = np.ones((4, 3))
HOLE[2, 1], HOLE[3, 0] = np.nan, np.inf

BAD_ARRAYS = {
    "lengths": ((np.ones((4, 2)), np.ones(5)), r"`data` must have leaves of one length, got \[0\]: 4, \[1\]: 5.*iter"),
    "named lengths": ({"x": np.ones(4), "y": np.ones(5)}, "leaves of one length, got x: 4, y: 5"),
    "scalar": ({"x": np.ones(4), "y": 2.0}, "`data.y` must be an array with a leading axis of examples"),
    "lists": (([1.0, 2.0], [3.0, 4.0]), r"`data\[0\]\[0\]` must be an array"),
    "nothing": ((), r"`data` must hold at least one array, got \(\)"),
    "none": (None, "`data` must hold at least one array, got None"),
    "no examples": (np.ones((0, 2)), "`data` must hold at least one example, got 0"),
    "strings": ((np.ones(2), np.asarray(["a", "b"])), r"`data\[1\]` must hold numbers, got ndarray of dtype <U1"),
    "objects": (np.asarray([None, 1.0]), "`data` must hold numbers, got ndarray of dtype object"),
    "dates": (np.asarray(["2020-01-01"], "datetime64[D]"), "`data` must hold numbers"),
    "holes": ((np.ones(4), HOLE), r"`data\[1\]` must be finite .*2 of 12 values .*\(the first: nan at \[2, 1\]\)"),
    "overflow": (np.asarray([1.0, 1e300]), r"`data` must be finite in float32, got 1 of 2 .*inf at \[1\]"),
    "int overflow": (np.asarray([1, 2**40]), "`data` must fit int32, got int64 values beyond it"),
}


@pytest.mark.parametrize("data, message", BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_arrays_that_cannot_be_trained_on_are_refused_by_name(data, message):
    with pytest.raises((ValueError, TypeError), match=message):
        source(data, batch_size=None)


def test_the_argument_is_named_as_the_caller_says():
    with pytest.raises(ValueError, match=r"`validation\[0\]` must be finite"):
        check_arrays("validation", (HOLE,))


def draw_nothing(key):
    return ()


BAD_SOURCES = {
    "batch larger than the data": (pair(), {"batch_size": 8}, "`batch_size` must be at most 7, .* got 8"),
    "batch of nothing": (pair(), {"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
    "fractional batch": (pair(), {"batch_size": 2.0}, "`batch_size` must be a whole number of at least 1, got 2.0"),
    "size of draws": (drawn(draw_normal), {"batch_size": 2}, "`batch_size` must be None where batches are drawn"),
    "size of a stream": (ended(), {"batch_size": 2}, "`batch_size` must be None where batches are drawn or streamed"),
    "order of a stream": (ended(), {"per_seed": True}, '`order` must be "shared" with a stream'),
    "empty stream": (iter([]), {}, "`data` must yield at least one batch"),
    "stream of nothing": (iter([()]), {}, r"`data` must yield batches of arrays, got \(\)"),
    "stream of words": (iter(["word"]), {}, "`batch` must hold numbers, got str of dtype <U4"),
    "stream with a hole": (iter([(HOLE,)]), {}, r"`batch\[0\]` must be finite"),
    "draw of nothing": (drawn(draw_nothing), {}, r"`draw` must return a batch of arrays, got \(\)"),
}


@pytest.mark.parametrize("data, arguments, message", BAD_SOURCES.values(), ids=BAD_SOURCES)
def test_a_source_that_cannot_serve_is_refused(data, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        source(data, **arguments)


def test_draws_and_streams_take_functions():
    with pytest.raises(TypeError, match="`draw` must be a function from a key to a batch, got 3"):
        drawn(3)
    with pytest.raises(TypeError, match=r"`open` must be a function from a step to an iterable.*iterable by itself"):
        stream(iter([]))


def test_an_error_at_the_first_batch_is_the_callers():
    with pytest.raises(ZeroDivisionError):
        source(stream(lambda start: 1 // 0))


def idx_bytes(array, code):
    return struct.pack(">HBB", 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IDX_CODES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


@pytest.mark.parametrize("code", IDX_CODES)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_files_are_read_in_every_type_plain_or_gzipped(tmp_path, code, pack):
    array = np.arange(-12, 12).astype(IDX_CODES[code]).reshape(2, 3, 4)
    (tmp_path / "file").write_bytes(pack(idx_bytes(array, code)))
    found = read_idx(tmp_path / "file")
    np.testing.assert_array_equal(found, array)
    assert found.dtype.isnative and found.dtype == array.dtype.newbyteorder("=") and found.flags.writeable


GOOD_IDX = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2, 3), 0x08)

BAD_IDX = {
    "empty": (b"", "must begin with the magic number of IDX, got nothing"),
    "other format": (b"\x89PNG....", "must begin with the magic number of IDX, got 89 50 4e 47"),
    "unknown type": (b"\0\0\x0a\x01\0\0\0\0", "must begin with the magic number of IDX"),
    "short header": (GOOD_IDX[:7], "must have an IDX header of 12 bytes, got 7 bytes"),
    "short": (GOOD_IDX[:-1], r"must have 18 bytes for its shape \[2, 3\], got 17 bytes"),
    "long": (GOOD_IDX + b"\0", "must have 18 bytes .* got 19 bytes"),
    "short gzip": (gzip.compress(GOOD_IDX)[:-9], "must be a whole gzip file"),
    "damaged gzip": (gzip.compress(GOOD_IDX)[:-8] + b"\0" * 8, "must be a whole gzip file, got CRC"),
}


@pytest.mark.parametrize("content, message", BAD_IDX.values(), ids=BAD_IDX)
def test_a_damaged_idx_file_is_refused_by_name(tmp_path, content, message):
    (tmp_path / "digits.idx").write_bytes(content)
    with pytest.raises(ValueError, match=f"digits.idx` {message}"):
        read_idx(tmp_path / "digits.idx")


@pytest.mark.parametrize("names", [("x", "y"), ("X", "y"), ("X", "Y"), ("inputs", "targets")])
def test_npz_files_give_inputs_and_targets(tmp_path, names):
    x, y = np.arange(6.0).reshape(3, 2), np.arange(3)
    np.savez(tmp_path / "file.npz", **dict(zip(names, (x, y))), other=np.ones(9))
    inputs, targets = read_npz(tmp_path / "file.npz")
    np.testing.assert_array_equal(inputs, x)
    np.testing.assert_array_equal(targets, y)


BAD_NPZ = {
    "no targets": ({"x": np.ones(3)}, "must have one array named y or targets, got none"),
    "two inputs": ({"x": np.ones(3), "X": np.ones(3), "y": np.ones(3)}, "must have one array named x or inputs, got x, X"),
    "lengths": ({"x": np.ones((3, 2)), "y": np.ones(4)}, r"must have a target for each input, got \(3, 2\) and \(4,\)"),
    "scalars": ({"x": np.ones(()), "y": np.ones(())}, "must have a target for each input"),
    "objects": ({"x": np.asarray([{}]), "y": np.ones(1)}, "must hold arrays that can be read as they are, got Object"),
}


@pytest.mark.parametrize("arrays, message", BAD_NPZ.values(), ids=BAD_NPZ)
def test_an_npz_file_without_the_arrays_is_refused_by_name(tmp_path, arrays, message):
    np.savez(tmp_path / "points.npz", **arrays)
    with pytest.raises(ValueError, match=f"points.npz` {message}"):
        read_npz(tmp_path / "points.npz")


def test_a_damaged_npz_file_is_refused_by_name(tmp_path):
    path = tmp_path / "points.npz"
    np.savez(path, x=np.arange(100.0), y=np.arange(100))
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(ValueError, match=r"points.npz` must be an NPZ file, got something else, or a file cut off"):
        read_npz(path)
    path.write_bytes(whole[:300] + b"\xff" + whole[301:])
    with pytest.raises(ValueError, match=r"points.npz` must hold arrays that can be read as they are, got Bad CRC"):
        read_npz(path)


def csv(tmp_path, text):
    (tmp_path / "people.csv").write_text(text)
    return tmp_path / "people.csv"


TARGETS = {
    "strings": (["b", "a", "b"], [1, 0, 1], np.int32),
    "booleans": ([True, False, True], [1, 0, 1], np.int32),
    "whole numbers": ([5, 7, 5], [5, 7, 5], np.int32),
    "floats": ([0.5, 2.0, -1.0], [0.5, 2.0, -1.0], np.float32),
}


@pytest.mark.parametrize("column, expected, dtype", TARGETS.values(), ids=TARGETS)
def test_a_csv_file_gives_float32_inputs_and_its_target_column(tmp_path, column, expected, dtype):
    table = pd.DataFrame({"age": [1, 2, 3], "label": column, "tall": [True, False, True], "pay": [0.5, 1.5, 2.5]})
    table.to_csv(tmp_path / "people.csv", index=False)
    inputs, targets = read_csv(tmp_path / "people.csv", target="label")
    np.testing.assert_array_equal(inputs, np.asarray([[1, 1, 0.5], [2, 0, 1.5], [3, 1, 2.5]], np.float32))
    assert inputs.dtype == np.float32 and targets.dtype == dtype and targets.tolist() == expected


BAD_CSV = {
    "no such column": ("a,b\n1,2\n", r"`target` must be a column of .*people.csv \(a, b\), got 'y'"),
    "missing values": (
        "a,b,y\n1,,1\n,2,0\n,3,1\n",
        "people.csv` must have no missing values, got a: 2 of 3 rows, b: 1 of 3 rows",
    ),
    "missing targets": ("a,y\n1,\n2,1\n", "must have no missing values, got y: 1 of 2 rows"),
    "words": ("a,b,y\n1,red,1\n2,blue,0\n", "must have numbers in every input column, got b. Encode"),
    "no inputs": ("y\n1\n", "must have rows and a column besides the target"),
    "no rows": ("a,y\n", "people.csv` must have"),
    "empty": ("", "people.csv` must be a whole CSV file, got No columns"),
    "ragged": ("a,y\n1,2\n1,2,3\n", "people.csv` must be a whole CSV file, got Error tokenizing"),
    "large classes": (f"a,y\n1,{2**40}\n", "people.csv` must have integer targets of 32 bits, got up to 1099511627776"),
}


@pytest.mark.parametrize("text, message", BAD_CSV.values(), ids=BAD_CSV)
def test_a_csv_file_that_cannot_be_trained_on_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_csv(csv(tmp_path, text), target="y")


OTHER_BYTES = {"people.csv": b"\xff\xfe\x00\x80,y\n1,2\n", "people.csv.gz": gzip.compress(b"a,y\n" + b"1,2\n" * 99)[:-9]}


@pytest.mark.parametrize("name", OTHER_BYTES)
def test_a_csv_file_of_other_bytes_is_refused_by_name(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(OTHER_BYTES[name])
    with pytest.raises(ValueError, match="must be a whole CSV file"):
        read_csv(path, target="y")


@pytest.mark.parametrize("read", [read_idx, read_npz, functools.partial(read_csv, target="y")])
def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path, read):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "nowhere")


def test_a_split_gives_every_example_to_one_part_and_keeps_rows_together():
    data = {"x": np.arange(20.0).reshape(10, 2), "y": jnp.arange(10)}
    parts = split(data, (0.7, 0.15, 0.15), key=0)
    assert [len(part["y"]) for part in parts] == [7, 1, 2]
    assert sorted(np.concatenate([part["y"] for part in parts]).tolist()) == list(range(10))
    for part in parts:
        np.testing.assert_array_equal(part["x"][:, 0], 2.0 * np.asarray(part["y"]))


def test_a_split_is_shuffled_by_its_key_alone():
    rows = np.arange(100)
    first, again, other = (split(rows, (0.5, 0.5), key=key)[0].tolist() for key in (0, jax.random.key(0), 1))
    assert first == again != other and first != sorted(first)


@pytest.mark.parametrize(
    "fractions, message",
    [
        ((0.5, 0.6), r"`fractions` must be positive and sum to 1, got \(0.5, 0.6\)"),
        ((1.5, -0.5), "`fractions` must be positive and sum to 1"),
        ((), "`fractions` must be positive and sum to 1"),
        ((0.99, 0.01), "`fractions` must leave an example of 5 to each part"),
    ],
)
def test_fractions_that_do_not_share_out_the_examples_are_refused(fractions, message):
    with pytest.raises(ValueError, match=message):
        split(np.arange(5), fractions, key=0)


def test_standardized_training_columns_have_mean_0_and_deviation_1():
    train = np.random.default_rng(0).normal([1e3, -5, 0], [1e-1, 3, 1e4], (200, 3)).astype(np.float32)
    (scaled,) = standardize(train)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=0, dtype=np.float64), 0, atol=1e-7)
    np.testing.assert_allclose(scaled.std(axis=0, dtype=np.float64), 1, rtol=1e-6)


def test_other_parts_are_scaled_by_the_training_part_alone():
    train, test = np.asarray([[0], [2]]), np.asarray([[4], [6]])
    assert [part.tolist() for part in standardize(train, test)] == [[[-1], [1]], [[3], [5]]]


def test_a_column_constant_in_training_is_0_everywhere():
    column = np.full((7, 1), 0.1)
    assert column.std(axis=0) > 0, "the rounding that this test is about"
    train, test = standardize(column, np.asarray([[0.1], [7.0]]))
    assert not train.any() and not test.any()


MNIST_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", MNIST_MD5)
def test_mnist_is_read_to_the_byte(real_data, name):
    digits = read_idx(real_data / "mnist" / f"{name}.gz")
    assert hashlib.md5(idx_bytes(digits, 0x08)).hexdigest() == MNIST_MD5[name]


@pytest.mark.real_data
def test_a_real_table_survives_the_way_through_csv(real_data, tmp_path):
    table = np.loadtxt(real_data / "lightgbm-examples" / "binary_classification" / "binary.test")
    names = ["label", *(f"feature_{i}" for i in range(28))]
    pd.DataFrame(table, columns=names).astype({"label": int}).to_csv(tmp_path / "binary.csv", index=False)
    inputs, targets = read_csv(tmp_path / "binary.csv", target="label")
    np.testing.assert_array_equal(inputs, table[:, 1:].astype(np.float32))
    np.testing.assert_array_equal(targets, table[:, 0])
