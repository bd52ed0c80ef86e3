"""The house rules, read off the source: ranks, fences, file length, public names."""

import ast
import inspect
import pathlib

import pytest

import gradkit as gk

ROOT = pathlib.Path(gk.__file__).parent
ORDER = [
    "checks contracts decompositions flows folders roots settings trees",
    "keys questions travels weights",
    "data gradients losses schedules spaces",
    "transforms",
    "as_keras as_torch optimizers",
    "boosting descents unrolls",
    "engine models report",
    "results",
    "requests",
    "judging",
    "reruns",
    "fits minima sweeps",
    "interop",
]
RANKS = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms.split()}
COMPILING = {
    "engine/segment.py",
    "gradients/lines.py",
    "boosting/prediction.py",
    "minima/walks.py",
}  # jax.jit stands here only
LAZY = {"interop/estimators.py"}  # imported when asked for: may import what only it needs
SETTING = {"settings.py"}  # jax's settings change here only, and are put back
PICKLING = {"travels.py"}  # what somebody pickles already: results are sent to other processes
PRINTING = {"engine/progress.py"}
DRAWING = {"report/plots.py"}
FILES = sorted(path for path in ROOT.rglob("*.py"))
MODULES = [path for path in FILES if path != ROOT / "__init__.py"]


def room(path):
    """The room a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """The gradkit rooms and other packages that a file imports, at its top or inside functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def names_used(path):
    """Every dotted name that a file uses, as written."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.Attribute, ast.Name)):
            yield ast.unparse(node)


def breaches(path, source):
    """Imports of a file that point to its own rank's other rooms or upward."""
    own = room(path)
    for name in source:
        parts = name.split(".")
        if parts[0] == "gradkit" and len(parts) > 1 and parts[1] != own and RANKS[parts[1]] >= RANKS[own]:
            yield name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_from_lower_ranks_and_its_own_room_only(path):
    assert room(path) in RANKS, "a new room needs a rank"
    assert not list(breaches(path, imports(path)))


def test_the_walk_would_see_a_breach():
    assert list(breaches(ROOT / "losses" / "new.py", ["gradkit.gradients", "gradkit.engine.plan"])) != []
    assert list(breaches(ROOT / "losses" / "new.py", ["gradkit.checks.require", "gradkit.losses.metrics"])) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_documented_and_keep_to_their_fences(path):
    where, text = path.relative_to(ROOT).as_posix(), path.read_text()
    assert text.count("\n") <= 300
    assert ast.get_docstring(ast.parse(text)) or not text
    used = set(names_used(path))
    assert where in COMPILING or not used & {"jax.jit", "jit", "jax.pmap"}
    assert where in PRINTING or "print" not in used
    assert where in DRAWING or not any(name.startswith("matplotlib") for name in imports(path))
    assert where in PICKLING or not any(name.split(".")[0] in ("pickle", "cloudpickle", "dill") for name in imports(path))
    assert "eval" not in used
    assert where in SETTING or not used & {"jax.config.update", "config.update"}


def test_heavy_libraries_are_not_imported_at_the_top():
    for path in FILES:
        if path.relative_to(ROOT).as_posix() in LAZY:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                name = node.names[0].name if isinstance(node, ast.Import) else node.module
                assert name.split(".")[0] not in {"pandas", "scipy", "rich", "matplotlib", "sklearn"}, path


def public_objects():
    """Every name people reach through ``gk``, and through its public rooms."""
    for name in gk.__all__:
        thing = getattr(gk, name)
        yield name, thing
        if inspect.ismodule(thing):
            for inner, value in vars(thing).items():
                is_ours = getattr(value, "__module__", "").startswith(thing.__name__)
                if not inner.startswith("_") and callable(value) and is_ours:
                    yield f"{name}.{inner}", value


@pytest.mark.parametrize(("name", "thing"), list(public_objects()), ids=lambda value: value if isinstance(value, str) else "")
def test_public_names_are_documented(name, thing):
    assert inspect.getdoc(thing), name
    if inspect.isclass(thing):
        assert not inspect.getdoc(thing).startswith(f"{thing.__name__}("), "a NamedTuple needs a docstring of its own"
        for method, value in vars(thing).items():
            if inspect.isfunction(value) and not method.startswith("_"):
                assert inspect.getdoc(value), f"{name}.{method}"


def test_the_binding_names_exist():
    expected = {
        "losses": "squared absolute huber log_cosh quantile poisson logistic softmax hinge focal",
        "gradients": "value_and_grad per_example accumulate hvp check",
        "models": "descent",
    }
    for module, names in expected.items():
        assert all(hasattr(getattr(gk, module), name) for name in names.split())
    top = (
        "objective descent grid zipped sample geomspace linspace log_uniform uniform choice static unroll fit sweep drawn stream "
        "minimize"
    )
    assert all(hasattr(gk, name) for name in top.split())
    assert gk.Descent._fields == ("init", "step", "params", "loss", "parts", "rule")
