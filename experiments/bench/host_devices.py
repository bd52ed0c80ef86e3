"""A workbench with several host devices, in a process of its own: jax settles their number before its first array.

Requests flow in as lines of JSON, replies flow out. Between requests the process waits for a line and computes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from experiments.bench.scans import Outcome

ROOT = pathlib.Path(__file__).absolute().parents[2]


class HostDevices:
    """The client: stands for a ``Workbench`` in a process with that many host devices."""

    def __init__(self, devices: int):
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "experiments.bench.host_devices", str(devices)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        )  # fmt: skip

    def use(self, **case):
        """Take up another case, as ``cases.build`` names it."""
        self._ask("use", **case)
        return self

    def run(self, width: int, threads: int, steps: int) -> Outcome:
        """See ``Workbench.run``."""
        reply = self._ask("run", width=width, threads=threads, steps=steps)
        return Outcome(reply["seconds"], np.array(reply["losses"]))

    def probe(self, width: int, threads: int, seconds: float) -> dict[str, float]:
        """See ``Workbench.probe``."""
        return self._ask("probe", width=width, threads=threads, seconds=seconds)

    def close(self):
        """End the process."""
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def _ask(self, action: str, **arguments) -> dict:
        with contextlib.suppress(BrokenPipeError):  # then there is no reply either
            self.process.stdin.write(json.dumps({"action": action, **arguments}) + "\n")
            self.process.stdin.flush()
        reply = self.process.stdout.readline()
        if not reply:
            raise RuntimeError("The process with several host devices ended; its message stands above.")
        return json.loads(reply)


def serve(devices: int):
    """Answer requests until there are no more."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    from experiments.bench import cases
    from experiments.bench.tuning import Workbench

    bench = None
    for line in sys.stdin:
        arguments = json.loads(line)
        action, reply = arguments.pop("action"), {}
        if action == "use":
            bench = Workbench(cases.build(**arguments), jax.devices())
        elif action == "probe":
            reply = bench.probe(**arguments)
        else:
            outcome = bench.run(**arguments)
            reply = {"seconds": outcome.seconds, "losses": outcome.losses.tolist()}
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
