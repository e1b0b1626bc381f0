import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import espnet_ctckd

PACKAGE = Path(espnet_ctckd.__file__).parent

# An import points to the left, or stays in its layer: the law of the layout.
LAYERS = (
    *("core", "data", "models", "teachers", "cache", "evaluation", "decode"),
    *("plugin", "export", "report", "bin"),
)
# Of the core, likewise: modules at the root of the package.
CORE = (
    *("choices", "posteriors", "paths", "tokens", "frames", "select", "losses"),
    *("reduce", "config", "objective"),
)
# register(), and the name by which configurations find the task.
EXEMPT = {"espnet_ctckd", "espnet_ctckd.task"}


def module_of(file):
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(name):
    """The layer of `espnet_ctckd.x.y`."""
    part = [*name.split("."), ""][1]
    return part if part in LAYERS else "core"


ALL = sorted(PACKAGE.rglob("*.py"))
PURE = [
    file
    for file in ALL
    if layer_of(module_of(file)) == "core" and module_of(file) not in EXEMPT
]
pure_files = pytest.mark.parametrize("file", PURE, ids=map(module_of, PURE))
all_files = pytest.mark.parametrize("file", ALL, ids=map(module_of, ALL))


def imports_of(file):
    """Full names of all that a file imports, wherever in it: `from a import b` is a.b.

    A relative import is spelt out.
    """
    module = module_of(file).split(".")
    package = module if file.name == "__init__.py" else module[:-1]
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


@pure_files
def test_the_core_imports_torch_and_the_standard_library_only(file):
    outside = {name.split(".")[0] for name in imports_of(file)}
    assert outside <= {"torch", "espnet_ctckd", *sys.stdlib_module_names}


def own_imports(file):
    return [n for n in imports_of(file) if n.split(".")[0] == "espnet_ctckd"]


@pure_files
def test_inside_the_core_imports_point_downhill(file):
    own = CORE.index(module_of(file).split(".")[1])
    for name in own_imports(file):
        assert CORE.index(name.split(".")[1]) <= own, name


@all_files
def test_imports_point_downhill(file):
    module = module_of(file)
    if module in EXEMPT:
        pytest.skip("it hands out what others define")
    own = LAYERS.index(layer_of(module))
    for name in own_imports(file):
        assert LAYERS.index(layer_of(name)) <= own, name


# What commands share: how they parse and end, their flags, and the parts of `bench`.
SHARED = {"cli", "flags", "benches"}


@all_files
def test_no_command_is_a_library_of_another(file):
    for name in own_imports(file):
        assert layer_of(name) != "bin" or name.split(".")[2] in SHARED, name


def test_nothing_is_imported_in_a_circle():
    modules = {module_of(file) for file in ALL}
    arrows = {}
    for file in ALL:
        targets = {
            n if n in modules else n.rpartition(".")[0] for n in own_imports(file)
        }
        arrows[module_of(file)] = targets - {module_of(file)}
    for name in EXEMPT:
        arrows[name] = set()
    while leaves := [name for name in arrows if not arrows[name] & arrows.keys()]:
        for name in leaves:
            del arrows[name]
    assert not arrows, sorted(arrows)


@all_files
def test_nothing_is_imported_that_only_one_espnet_has(file):
    for name in imports_of(file):
        assert name.split(".")[0] != "espnet", f"{name}: the old package"
        assert not f"{name}.".startswith("torch.cuda.amp."), name


def test_the_reader_of_imports_sees_every_form(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "pkg")
    file = tmp_path / "pkg" / "sub" / "module.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "import a.b, c as d\nfrom e.f import g\nfrom . import h\nfrom ..i import j\n"
        "def late():\n    from torch.cuda import amp\n"
    )
    assert imports_of(file) == [
        "a.b",
        "c",
        "e.f.g",
        "pkg.sub.h",
        "pkg.i.j",
        "torch.cuda.amp",
    ]


def test_the_objective_is_importable_without_espnet():
    code = (
        "import sys, espnet_ctckd.objective, espnet_ctckd.decode.greedy\n"
        "print(*(m for m in ('espnet2', 'espnet', 'kaldiio', 'soundfile', "
        "'torchaudio', 'yaml') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


@pure_files
def test_the_examples_of_the_docstrings_hold(file):
    assert doctest.testmod(importlib.import_module(module_of(file))).failed == 0


def test_some_docstrings_have_examples():
    found = [
        doctest.testmod(importlib.import_module(module_of(file))).attempted
        for file in PURE
    ]
    assert sum(found) > 0
