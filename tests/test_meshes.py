"""Arrays that live on devices: bound to one, spread over a mesh, under a mesh that is set. In a process with four devices."""

import os
import pathlib
import subprocess
import sys

import pytest

import gradkit as gk

SCRIPT = """
import contextlib, sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import gradkit as gk
assert len(jax.devices()) == 4
first, second, third, fourth = jax.devices()
auto, explicit = (jax.make_mesh((4,), ("data",), axis_types=(kind,)) for kind in (AxisType.Auto, AxisType.Explicit))
x = np.linspace(-1, 1, 32, dtype=np.float32)
DATA = {
    "host": (x, 3 * x),
    "another device": tuple(jax.device_put((x, 3 * x), third)),
    "several devices": (jax.device_put(x, second), jax.device_put(3 * x, NamedSharding(auto, P("data")))),
    "auto": jax.device_put((x, 3 * x), NamedSharding(auto, P("data"))),
    "explicit": jax.device_put((x, 3 * x), NamedSharding(explicit, P("data"))),
}
CONTEXTS = {
    "": contextlib.nullcontext,
    "under an auto mesh": lambda: jax.set_mesh(auto),
    "under an explicit mesh": lambda: jax.set_mesh(explicit),
    "on a default device": lambda: jax.default_device(fourth),
}
line = lambda w, batch: jnp.mean((w * batch[0] - batch[1]) ** 2)
start = jax.device_put(jnp.zeros(()), second)
make = lambda h: gk.descent(line, start, optax.sgd(h.learning_rate))
rates = gk.grid(learning_rate=[0.1, 0.2, 0.3, 0.4, 0.5])
RUN = {"steps": 5, "batch_size": 8, "progress": False}
def sweep(spans, name="host", context="", key=0):
    with CONTEXTS[context]():
        plan = gk.Plan(width=1, threads=2, spans=spans)
        return gk.sweep(make, DATA[name], rates, plan=plan, validation=DATA[name], key=key, **RUN)
def fit(name="host", context=""):
    with CONTEXTS[context]():
        return gk.fit(gk.descent(line, start, optax.sgd(0.1)), DATA[name], validation=DATA[name], **RUN)
def numbers(fits):
    return [[np.asarray(fit.params), fit.history["loss"], fit.evaluations["validation_loss"]] for fit in fits]
def close(one, other):
    for a, b in zip(jax.tree.leaves(numbers(one)), jax.tree.leaves(numbers(other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
for spans in (True, False):
    reference = sweep(spans)
    for name, context in [(name, "") for name in DATA] + [("auto", "under an auto mesh"), ("host", "under an explicit mesh"),
                          ("explicit", "under an explicit mesh"), ("host", "on a default device")]:
        found = sweep(spans, name, context)
        close(found, reference)
        with CONTEXTS[context]():
            assert found.replay(2).params == found[2].params, (spans, name, context)
    close(sweep(spans, key=jax.device_put(jax.random.key(0), third)), reference)
reference = fit()
for name, context in [("another device", ""), ("several devices", ""), ("auto", ""), ("auto", "under an auto mesh"),
                      ("host", "under an explicit mesh")]:
    close([fit(name, context)], [reference])
binned = gk.boosting.bin(x[:, None])
def boost(name="host", context=""):
    with CONTEXTS[context]():
        trees = gk.boosting.descent(gk.losses.squared, learning_rate=0.5, depth=2)
        return gk.fit(trees, (binned, DATA[name][1]), steps=3, progress=False)
reference = boost().history["loss"]
for name, context in [("another device", ""), ("several devices", ""), ("auto", "under an auto mesh"),
                      ("host", "under an explicit mesh")]:
    np.testing.assert_allclose(boost(name, context).history["loss"], reference, rtol=1e-5)
print("equal")
"""


@pytest.mark.long
def test_arrays_may_live_anywhere_and_a_mesh_may_be_set():
    path = os.pathsep.join([str(pathlib.Path(gk.__file__).parents[1]), str(pathlib.Path(__file__).parent)])
    settings = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    script = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(script, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "equal", done.stderr
