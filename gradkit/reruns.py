"""Members of a sweep once more: as they ran, or alone; in this process, or in one that the sweep was sent to.

A request and what each member did flow in, a ``Fit`` flows out. In the process of the sweep its programs are at hand; in
another one they are prepared anew, from the request.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import numpy as np

from gradkit import checks, requests, settings, travels, trees
from gradkit.contracts import Source
from gradkit.engine import compilation, programs
from gradkit.engine import group as groups
from gradkit.engine.group import Course
from gradkit.engine.holdings import Holding, take_up
from gradkit.engine.interrupts import listening
from gradkit.engine.plan import Plan
from gradkit.requests import Request
from gradkit.results import Fit
from gradkit.results.fit import from_ledger, on_device
from gradkit.travels import DeviceName, Lost

FUNCTIONS = ("make", "evaluate", "space")  # and what is made of functions: sent by where they are imported from
AGAIN = "Define it in a module that both processes can import, or call gk.sweep(..., plan=sweep.plan) in this one."


@dataclass(frozen=True, eq=False, repr=False)
class Reruns:
    """Runs a member again.

    Attributes:
        request: What the sweep was asked.
        plan: Its layout.
        courses: What each member did.
        holdings: The programs, in the process of the sweep.
    """

    request: Request
    plan: Plan
    courses: tuple[Course, ...]
    holdings: tuple[Holding, ...] = ()

    def __call__(self, member: int, *, is_alone: bool) -> Fit:
        """Run a member in the chunk shapes and lanes it had, or alone and to its last step."""
        _check_complete(self.request)
        started = time.perf_counter()
        with settings.without_mesh(), compilation.persistent(), listening() as is_interrupted:
            holdings = self.holdings or requests.prepare(self.request).holdings
            holding, index = next(_homes(holdings, member))
            _check_replayable(holding.run.source)
            run = take_up(holding)
            course = groups.lone_course(run, index) if is_alone else self.courses[member]
            plan = groups.lone_plan() if is_alone else _here(self.plan)
            given, remedy = checks.Described("none"), "sweep.refit(member) makes all its steps."
            checks.require(course.end > 0, "member", "have made steps that can be repeated", given, remedy)
            with programs.repeating():
                ledger = groups.replay(run, plan, index, course, is_interrupted)
        result = from_ledger(ledger, 0, time.perf_counter() - started)
        return replace(result, params=on_device(result.params), state=on_device(result.state))

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: not the programs, which are of this process."""
        return {"request": _sent(self.request), "plan": self.plan, "courses": self.courses, "holdings": ()}


def _homes(holdings: Sequence[Holding], member: int) -> Iterator[tuple[Holding, int]]:
    """The program of a member, and its place there."""
    for holding in holdings:
        places = np.flatnonzero(np.asarray(holding.run.members.positions) == member)
        yield from ((holding, int(place)) for place in places)


def _sent(request: Request) -> Request:
    """The request as it travels: arrays on the host, functions by where they are imported from."""
    changes = {name: travels.sent(getattr(request, name)) for name in FUNCTIONS}
    return replace(request, **changes, data=_sent_data(request.data), validation=trees.to_host(request.validation))


def _sent_data(data: Any) -> Any:
    is_leaf = jax.tree_util.all_leaves([data])
    is_arrays = all(hasattr(leaf, "__array__") for leaf in ([data] if is_leaf else jax.tree.leaves(data)))
    return trees.to_host(data) if is_arrays else travels.sent(data)


def _check_complete(request: Request):
    lost = {each.name: getattr(request, each.name) for each in fields(request)}
    lost = {name: value for name, value in lost.items() if isinstance(value, Lost)}
    described = checks.Described(f"no {', '.join(f'{name} ({value})' for name, value in lost.items())}")
    reasons = "; ".join(f"{name}: {value.reason}" for name, value in lost.items())
    checks.require(not lost, "sweep", "have all it was made of to run a member again", described, f"{reasons}. {AGAIN}")


def _check_replayable(source: Source):
    checks.require(source.is_replayable, "data", "be drawn again for a replay", checks.Described("a plain iterable"),
                   "Use gk.stream(start_step -> iterable) or arrays.")  # fmt: skip


def _here(plan: Plan) -> Plan:
    """The plan, if it can be followed here: bits depend on the kind of device and, where chunks span several, on their number."""
    missing, home = [each for each in plan.devices if isinstance(each, DeviceName)], jax.local_devices()[0]
    is_here = not missing or (not plan.spans and home.device_kind == plan.devices[0].device_kind)
    checks.require(is_here, "plan.devices", "be there for a replay", checks.Described(", ".join(map(str, missing))),
                   "sweep.refit(member) runs it on what there is.")  # fmt: skip
    return plan._replace(devices=(home,)) if missing else plan
