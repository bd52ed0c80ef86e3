"""Members of a sweep once more: as they ran, or alone; in this process, or in one that the sweep was sent to.

A request and what each member did flow in, a ``Fit`` flows out. In the process of the sweep its programs are at hand; in
another one they are prepared anew, from the request.
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import numpy as np

from gradkit import checks, requests, settings, travels, trees
from gradkit.contracts import Source
from gradkit.engine import compilation, programs
from gradkit.engine import group as groups
from gradkit.engine.group import Course
from gradkit.engine.holdings import Holding, Seal, check_seal, check_traced, take_up
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
        seals: Where it was sent, what tells whether its programs and data are still those.
        sealed_by: The jax that traced them, and for which kind of device.
    """

    request: Request
    plan: Plan
    courses: tuple[Course, ...]
    holdings: tuple[Holding, ...] = ()
    seals: tuple[Seal, ...] = ()
    sealed_by: tuple[str, str] = ("", "")

    def __call__(self, member: int, *, is_alone: bool) -> Fit:
        """Run a member in the chunk shapes and lanes it had, or alone and to its last step."""
        _check_complete(self.request)
        started = time.perf_counter()
        with settings.without_mesh(), compilation.persistent(), listening() as is_interrupted:
            holding, index = self._home(member)
            _check_replayable(holding.run.source)
            run = take_up(holding)
            course = groups.lone_course(run, index) if is_alone else self.courses[member]
            plan = groups.lone_plan() if is_alone else _here(self.plan)
            given, remedy = checks.Described("none"), "sweep.refit(member) makes all its steps."
            checks.require(course.end > 0, "member", "have made steps that can be repeated", given, remedy)
            with programs.repeating(functools.cache(functools.partial(check_traced, run))):
                ledger = groups.replay(run, plan, index, course, is_interrupted)
        result = from_ledger(ledger, 0, time.perf_counter() - started)
        return replace(result, params=on_device(result.params), state=on_device(result.state))

    def _home(self, member: int) -> tuple[Holding, int]:
        """The program of a member, and its place there; what was made anew is to be what ran."""
        holdings = self.holdings or requests.prepare(self.request).holdings
        for number, holding in enumerate(holdings):
            places = np.flatnonzero(np.asarray(holding.run.members.positions) == member)
            if places.size == 0 or (self.seals and number >= len(self.seals)):
                continue
            if self.seals:
                check_seal(holding, self.seals[number], is_same_jax=self.sealed_by == _jax_here())
            return holding, int(places[0])
        checks.refuse("sweep", "be run again by the functions that it ran", checks.Described(
            "functions that make other programs by now"), "Undo the edit, or sweep again.")  # fmt: skip

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: not the programs, which are of this process, but what tells them from others."""
        own = {"seals": tuple(holding.seal for holding in self.holdings), "sealed_by": _jax_here()} if self.holdings else {}
        return self.__dict__ | own | {"request": _sent(self.request), "holdings": ()}


def _jax_here() -> tuple[str, str]:
    """On what it depends how a program is written."""
    return jax.__version__, jax.default_backend()


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
