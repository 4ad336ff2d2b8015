"""The import graph: one direction, and a core that runs where OpenCompass is not installed."""

import ast
import graphlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = "opencompass_llada"
HOST = {"opencompass", "mmengine"}

# A layer may import those below it (earlier in the list) and its own.
LAYERS = [
    {"redaction"},
    {"options", "weight_files", "shared_weights", "files", "faults"},
    {"presets"},
    {"rope"},
    {"prompting", "devices", "processes"},
    {"networks"},
    {"inference"},
    {"sampling"},
    {"likelihood"},
    {"engines"},
    {"families"},
    {"wrapper"},
]
# The other two wings, which the core never imports, and what lies beside them.
WINGS = {"benchmarks", "runs", "report", "registry", "finetune", "cli"}
BESIDE = {"assets", "synthetic", "old_names"}
# Kernels for CUDA, imported only where Triton is.
NEEDS_TRITON = {
    "inference.triton.elementwise",
    "inference.triton.experts",
    "inference.triton.float8",
    "inference.triton.small_products",
    "inference.triton.split_attention",
}
HOST_ALLOWED = {
    *("wrapper.model", "registry", "runs", "benchmarks"),
    "report.summarizers",
}


def modules(root: Path) -> dict[str, Path]:
    package = root / PACKAGE
    names = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        names[".".join(part for part in parts if part != "__init__")] = path
    return names


def imports_of(path: Path, name: str) -> set[str]:
    """Return dotted names that a module imports, at any depth of its code."""
    is_package = path.name == "__init__.py"
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = [PACKAGE, *name.split(".")] if name else [PACKAGE]
                keep = len(parts) - node.level + (1 if is_package else 0)
                base = ".".join([*parts[:keep], *([node.module] if node.module else [])])
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return found


def layer_of(name: str) -> int | None:
    top = name.split(".")[0]
    return next((i for i, layer in enumerate(LAYERS) if top in layer), None)


def test_every_module_has_a_place(repository_root):
    places = {name for layer in LAYERS for name in layer} | WINGS | BESIDE | {""}
    assert {name.split(".")[0] for name in modules(repository_root)} <= places


def test_imports_go_one_way(repository_root):
    wrong, checked = [], 0
    for name, path in modules(repository_root).items():
        own = layer_of(name)
        for target in imports_of(path, name):
            if own is None or not target.startswith(f"{PACKAGE}."):
                continue
            target = target.removeprefix(f"{PACKAGE}.")
            other = layer_of(target)
            checked += 1
            if (other is not None and other > own) or target.split(".")[0] in WINGS:
                wrong.append(f"{name} imports {target}")
    assert not wrong
    assert checked > 30, "the walk must have seen the package's imports"


def test_only_the_edge_imports_opencompass(repository_root):
    importers = set()
    for name, path in modules(repository_root).items():
        if {target.split(".")[0] for target in imports_of(path, name)} & HOST:
            importers.add(name)
    allowed = {
        name
        for name in importers
        if any(name == edge or name.startswith(f"{edge}.") for edge in HOST_ALLOWED)
    }
    assert importers == allowed
    assert "wrapper.model" in importers


def test_the_core_imports_with_opencompass_blocked(repository_root):
    edge = HOST_ALLOWED
    core = [
        f"{PACKAGE}.{name}".rstrip(".")
        for name in modules(repository_root)
        if not any(name == item or name.startswith(f"{item}.") for item in edge)
        and not name.endswith("__main__")
        and (name not in NEEDS_TRITON or importlib.util.find_spec("triton"))
    ]
    # Samples can be made without the host: training, benchmarks and fidelity use them.
    core += [f"{PACKAGE}.benchmarks.needle.samples", f"{PACKAGE}.benchmarks.ruler.samples"]
    script = (
        "import sys, importlib\n"
        f"sys.path.insert(0, {str(repository_root)!r})\n"
        f"for name in {sorted(HOST)!r}: sys.modules[name] = None\n"
        f"for name in {core!r}: importlib.import_module(name)\n"
        "print(len(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert f"{PACKAGE}.engines" in core


def keywords_of(call: ast.Call, tree: ast.Module) -> dict[str, object]:
    """Return a call's constant keywords, those of a dictionary given by ** included."""
    found = {}
    for keyword in call.keywords:
        if isinstance(keyword.value, ast.Constant):
            found[keyword.arg] = keyword.value.value
        for node in ast.walk(tree) if keyword.arg is None else ():
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                names = [ast.unparse(target) for target in node.targets]
                pairs = zip(node.value.keys, node.value.values, strict=True)
                for key, value in pairs if ast.unparse(keyword.value) in names else ():
                    if isinstance(key, ast.Constant) and isinstance(value, ast.Constant):
                        found[key.value] = value.value
    return found


def test_no_call_runs_code_of_a_checkpoint_or_a_data_set(repository_root):
    """Auto classes and load_dataset refuse remote code; nothing unpickles what a file names."""
    wrong, checked = [], 0
    folders = ("opencompass_llada", "configs", "benchmarks", "tests", "needlebench")
    folders += ("studies", "tiny_models")
    files = [file for name in folders for file in (repository_root / name).rglob("*.py")]
    for file in [
        *files,
        *repository_root.glob("*.py"),
        *repository_root.glob("ruler_patches/*.py"),
    ]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            owner, _, method = name.rpartition(".")
            last = owner.rpartition(".")[2]
            needed = None
            if method == "load_dataset" or (
                last.startswith("Auto") and method in ("from_pretrained", "from_config")
            ):
                needed = ("trust_remote_code", False)
            elif name == "torch.load":
                needed = ("weights_only", True)
            elif last in ("pickle", "dill", "joblib") and method in ("load", "loads"):
                needed = None if "tests" in file.parts else ("never", True)
            if needed is not None:
                checked += 1
                if keywords_of(call, tree).get(needed[0]) is not needed[1]:
                    place = f"{file.relative_to(repository_root)}:{call.lineno}"
                    wrong.append(f"{place}: {name} needs {needed[0]}={needed[1]}")
    assert not wrong
    assert checked > 15, "the walk must have seen the repository's calls"


@pytest.mark.parametrize("module", ["opencompass_llada", "opencompass_llada.runs.machine"])
def test_importing_the_package_is_light(module, repository_root):
    script = (
        f"import sys; sys.path.insert(0, {str(repository_root)!r}); import {module};"
        "print(sorted({'torch', 'transformers', 'opencompass', 'numpy'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


def test_no_modules_import_each_other_in_a_circle(repository_root):
    """At any depth: neither as they are loaded, nor in a function, nor for types alone."""
    paths = modules(repository_root)
    links = {}
    for name, path in paths.items():
        targets = {t.removeprefix(f"{PACKAGE}.") for t in imports_of(path, name)} & set(paths)
        # A package's own page gathers its modules, which do not need the page.
        links[name] = {t for t in targets - {name} if paths[t].name != "__init__.py"}
    assert len(list(graphlib.TopologicalSorter(links).static_order())) == len(paths)
