import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import espnet_ctckd

PACKAGE = Path(espnet_ctckd.__file__).parent

# What each pure module may import of the package: modules below it, never above.
# A folder stands for all of its modules, which may import each other.
BELOW = {
    "choices": set(),
    "posteriors": set(),
    "pieces": set(),
    "align": {"choices", "pieces", "posteriors"},
    "select": {"choices", "posteriors"},
    "losses": {"choices", "posteriors"},
    "reduce": {"choices"},
    "frame_config": {"choices", "losses", "posteriors", "reduce", "select"},
    "config": {"choices", "frame_config", "losses"},
    "objective": {
        *("align", "frame_config", "losses", "posteriors", "reduce", "select"),
    },
    "analysis": set(),
    "decode/greedy": {"posteriors"},
}


def files_of(layer):
    single = PACKAGE / f"{layer}.py"
    return [single] if single.exists() else sorted((PACKAGE / layer).rglob("*.py"))


def module_of(file):
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PURE = [(layer, file) for layer in BELOW for file in files_of(layer)]
ALL = sorted(PACKAGE.rglob("*.py"))
pure_files = pytest.mark.parametrize(
    ("layer", "file"), PURE, ids=[module_of(file) for _, file in PURE]
)


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


def layer_of(name):
    """The layer that `espnet_ctckd.x.y` belongs to, by the longest name."""
    path = name.split(".")[1:]
    for size in range(len(path), 0, -1):
        if "/".join(path[:size]) in BELOW:
            return "/".join(path[:size])
    return name


@pytest.mark.parametrize("layer", sorted(BELOW))
def test_every_pure_module_is_found(layer):
    assert files_of(layer)


@pure_files
def test_pure_modules_import_torch_and_the_standard_library_only(layer, file):
    outside = {name.split(".")[0] for name in imports_of(file)}
    assert outside <= {"torch", "espnet_ctckd", *sys.stdlib_module_names}


@pure_files
def test_pure_modules_import_only_what_is_below_them(layer, file):
    inside = [n for n in imports_of(file) if n.split(".")[0] == "espnet_ctckd"]
    assert {layer_of(name) for name in inside} <= BELOW[layer] | {layer}


@pytest.mark.parametrize("file", ALL, ids=map(module_of, ALL))
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
def test_the_examples_of_the_docstrings_hold(layer, file):
    assert doctest.testmod(importlib.import_module(module_of(file))).failed == 0


def test_some_docstrings_have_examples():
    found = [
        doctest.testmod(importlib.import_module(module_of(file))).attempted
        for _, file in PURE
    ]
    assert sum(found) > 0
