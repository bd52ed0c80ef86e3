"""What is sent to another process: results as they are, functions by where they are imported from, devices by their names.

What cannot be sent, or is not found over there, arrives as a ``Lost``, and everything else arrives whole. Nothing is pickled
here but what somebody pickles already, and nothing is read back but as a part of that.
"""

from __future__ import annotations

import dataclasses
import importlib
import pickle
import sys
from collections.abc import Iterable
from typing import Any

import jax

PLAIN = (int, float, complex, str, bytes, type(None))


@dataclasses.dataclass(frozen=True, eq=False)
class Lost:
    """Stands for what did not arrive, under its name.

    Attributes:
        name: What it was, as people see it.
        reason: Why it is not here.
    """

    name: str
    reason: str

    @property
    def __name__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


@dataclasses.dataclass(frozen=True)
class _Parcel:
    """Pickles such that it arrives as its content, or as a ``Lost``."""

    name: str
    content: bytes | None
    reason: str

    def __reduce__(self):
        return _opened, (self.name, self.content, self.reason)


def sent(value: Any) -> Any:
    """What to pickle instead of a value that may not travel: functions, and objects made of them."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, jax.Device):
        return device_name(value)
    name = getattr(value, "__name__", None) or repr(value)
    try:
        return _Parcel(name, pickle.dumps(_address(value) or value), "")
    except Exception as error:  # whatever a foreign object raises when it is pickled
        return _Parcel(name, None, f"it cannot be sent: {error}")


@dataclasses.dataclass(frozen=True)
class _Address:
    """Pickles such that what stands there arrives: jitted functions do not pickle themselves."""

    module: str
    name: str

    def __reduce__(self):
        return _at, (self.module, self.name)


def _address(value: Any) -> _Address | None:
    """Where a value stands in a module, by its own account."""
    address = _Address(str(getattr(value, "__module__", None)), str(getattr(value, "__qualname__", None)))
    stands_there = getattr(sys.modules.get(address.module), address.name, None) is value
    return address if stands_there else None


def _at(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def sent_each(values: Iterable[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """What to pickle instead of named values; what was one object arrives as one."""
    values = tuple(values)
    parcels = {id(value): sent(value) for each in values for value in each.values()}
    return tuple({name: parcels[id(value)] for name, value in each.items()} for each in values)


def _opened(name: str, content: bytes | None, reason: str) -> Any:
    if content is None:
        return Lost(name, reason)
    try:
        return pickle.loads(content)
    except Exception as error:  # whatever a foreign object raises when it is not found
        return Lost(name, f"it is not found in this process: {error}")


@dataclasses.dataclass(frozen=True)
class DeviceName:
    """A device by its name: what pickles as a device, and what stands for one that is not there.

    Attributes:
        platform: As ``"cpu"``.
        id: As jax counts.
        device_kind: The product.
    """

    platform: str
    id: int
    device_kind: str

    def __reduce__(self):
        return _device, (self.platform, self.id, self.device_kind)

    def __repr__(self) -> str:
        return f"{self.platform}:{self.id} ({self.device_kind})"


def device_name(device: Any) -> DeviceName:
    """What to pickle instead of a device."""
    return DeviceName(device.platform, device.id, device.device_kind)


def _device(platform: str, number: int, kind: str) -> Any:
    """The device of that name, or its name."""
    try:
        devices = jax.local_devices(backend=platform)
    except RuntimeError:  # there is no such platform
        devices = []
    same = (device for device in devices if (device.id, device.device_kind) == (number, kind))
    return next(same, DeviceName(platform, number, kind))


def is_missing(value: Any) -> bool:
    """Whether something arrived as a mere name."""
    return isinstance(value, (Lost, DeviceName))
