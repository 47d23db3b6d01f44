"""The architecture, held against the code: who may import whom, what starts fast, what the package exports."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "moe_ray"
ROOT = PACKAGE.parent

# Each part may import the parts before it in its line, and itself.
LAYERS = (
    ("arrays", "errors", "fingerprint", "characters", "progress", "proportions", "device", "suggestions"),
    ("files", "formatting", "hub", "mounts", "registry"),
    ("config",),
    ("prompts",),
    ("domains", "architectures", "mixtures"),
    ("engines",),
    ("checkpoints",),
    ("planning",),
    ("store",),
    ("scoring", "execution", "texts"),
    ("gating",),
    ("routing", "moe"),
    ("comparison",),
    ("report",),
    ("specialisation",),
    ("microworld",),
    ("serving",),
    ("clusters", "runs"),
    ("api", "cli"),
    ("entry",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
MAY_IMPORT = {
    "ray": {"clusters", "execution", "serving"},
    "torch": {
        "architectures",
        "checkpoints",
        "device",
        "engines",
        "gating",
        "microworld",
        "mixtures",
        "moe",
        "routing",
        "specialisation",
    },
    "transformers": {"architectures", "checkpoints", "engines", "gating", "microworld", "moe", "routing"},
}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).with_suffix("").parts[0], path


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_parts(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("moe_ray.") and name.count(".")}


@pytest.mark.parametrize(("part", "path"), list(modules()), ids=lambda value: str(getattr(value, "name", value)))
def test_a_part_imports_only_parts_below_it(part: str, path: Path) -> None:
    if part in ("__init__", "__main__"):
        return
    above = {name for name in own_parts(path) & RANK.keys() if name != part and RANK[name] >= RANK[part]}
    assert not above, f"{path.relative_to(ROOT)} imports {above}, which stand above or beside {part}"


def test_no_import_leads_back_to_its_own_module() -> None:
    """In a circle, whether an import works depends on the module that is imported first."""
    names = {_module_name(path) for _, path in modules()}
    graph = {_module_name(path): set(_modules_loaded_by(path, names)) for _, path in modules()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _modules_loaded_by(path: Path, names: set[str]) -> Iterator[str]:
    """The package's modules that the top level of `path` imports, with the packages that hold them but not it."""
    own = _module_name(path)
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module:
            found = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        else:
            found = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
        for name in found & names:
            parents = {name.rsplit(".", depth)[0] for depth in range(name.count(".") + 1)}
            yield from {parent for parent in parents if not f"{own}.".startswith(f"{parent}.")}


@pytest.mark.parametrize("library", sorted(MAY_IMPORT))
def test_heavy_libraries_are_imported_only_where_they_belong(library: str) -> None:
    users = {part for part, path in modules() if library in {name.split(".")[0] for name in imports(path)}}
    assert users <= MAY_IMPORT[library]


@pytest.mark.parametrize(
    "module", ["api", "cli.doctor", "cli.main", "cli.plan", "cli.runs", "runs.evaluate", "report.write"]
)
def test_what_needs_neither_ray_nor_torch_does_not_load_them(module: str) -> None:
    heavy = ["torch", "ray", "transformers", "datasets", "evaluate", "matplotlib", "scipy", "sklearn"]
    code = f"import sys, moe_ray.{module}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("method", ["from_pretrained", "from_config"])
def test_whether_code_of_a_checkpoint_may_run_is_said_in_each_call(method: str) -> None:
    """Where it is not said, transformers asks on standard input, and a yes runs whatever came with the files."""
    calls = {
        f"{path.relative_to(ROOT)}:{node.lineno}": {keyword.arg for keyword in node.keywords}
        for _, path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method
    }
    assert calls
    assert [place for place, named in calls.items() if "trust_remote_code" not in named] == []


def test_nothing_is_unpickled_but_tensors() -> None:
    """`torch.load` reads weights alone, `numpy.load` no objects; what unpickles freely is not imported at all."""
    safe = {"torch.load": "weights_only", "np.load": "allow_pickle"}
    calls = {
        f"{path.relative_to(ROOT)}:{node.lineno}": (ast.unparse(node.func), {one.arg for one in node.keywords})
        for _, path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in safe
    }
    assert {kind for kind, _ in calls.values()} == set(safe)
    assert [place for place, (kind, named) in calls.items() if safe[kind] not in named] == []
    picklers = {"pickle", "cloudpickle", "dill", "joblib", "shelve"}
    users = [path.name for _, path in modules() if picklers & {name.split(".")[0] for name in imports(path)}]
    assert users == []


def test_every_part_has_a_place_in_the_layers() -> None:
    parts = {part for part, _ in modules()} - {"__init__", "__main__"}
    assert parts == set(RANK)


def test_tests_and_benchmarks_share_only_what_is_in_support() -> None:
    """No test imports another test or a benchmark; a benchmark imports the shared fakes of tests/support alone."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for folder in ("tests", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in imports(path)
        if not _may_import(path.relative_to(ROOT).parts, name.split("."))
    ]
    assert wrong == []


def _may_import(path: tuple[str, ...], name: list[str]) -> bool:
    if name[0] == "benchmarks":
        return path[0] == "benchmarks"
    if name[0] == "tests":
        is_test = any(part.startswith("test_") for part in name)
        return not is_test and (path[0] == "tests" or path[:2] == ("benchmarks", "tests") or name[1] == "support")
    return True


def test_no_two_public_classes_have_one_name() -> None:
    """Type variables and the guest of the sandbox, which imports nothing, have their own."""
    places: dict[str, list[str]] = {}
    for _, path in modules():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            named = node.name if isinstance(node, ast.ClassDef) else _alias(node)
            if named and not named.startswith("_"):
                places.setdefault(named, []).append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def _alias(node: ast.stmt) -> str | None:
    """The name of a type's alias, such as `Record = Mapping[str, Any]`."""
    if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)):
        return None
    name, value = node.targets[0].id, ast.unparse(node.value)
    is_type = name[0].isupper() and not name.isupper() and not value.startswith("TypeVar(")
    return name if is_type else None


def test_no_function_is_longer_than_a_screen() -> None:
    too_long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for _, path in modules()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
    ]
    assert not too_long
