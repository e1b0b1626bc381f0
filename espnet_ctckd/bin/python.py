"""``ctckd-python``: Python, with ``model: ctckd`` known to ESPnet.

It takes the arguments of ``python``. ``ctckd-python -m espnet2.bin.asr_train`` trains a
student, so a stock recipe runs unchanged with ``--python ctckd-python``.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import multiprocessing
import os
import runpy
import sys
from types import CodeType, ModuleType
from typing import List, Optional, Sequence, Tuple

_TASK = "espnet2.tasks.asr"

# The stock entry point uses the stock task, which supports neither the data key
# `teacher` nor training without text. For other models both are equivalent.
_INSTEAD = {"espnet2.bin.asr_train": "espnet_ctckd.bin.asr_train"}

_HELP = ("-h", "--help")

_WITH_VALUE = ("-W", "-X", "--check-hash-based-pycs")


class _Registrar(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook that registers the plug-in when ESPnet's ASR task is imported."""

    def __init__(self) -> None:
        self._loader: Optional[importlib.abc.Loader] = None

    def find_spec(
        self, name: str, path: object, target: object = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        if name != _TASK or self._loader is not None:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec: object) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        assert self._loader is not None
        self._loader.exec_module(module)
        from espnet_ctckd import register

        register()

    def get_code(self, name: str) -> Optional[CodeType]:
        return self._loader.get_code(name)  # type: ignore


def split_arguments(argv: Sequence[str]) -> Tuple[List[str], List[str]]:
    """Split a command line of Python.

    Args:
        argv: arguments of the interpreter.

    Returns:
        Options of the interpreter, and the rest, starting with ``-m``, ``-c`` or a
        script.
    """
    position = 0
    while position < len(argv):
        argument = argv[position]
        if argument in ("-m", "-c", "-") or not argument.startswith("-"):
            break
        if argument.startswith(("-m", "-c")):
            both = [argument[:2], argument[2:]]
            return list(argv[:position]), [*both, *argv[position + 1 :]]
        position += 2 if argument in _WITH_VALUE else 1
    return list(argv[:position]), list(argv[position:])


def main() -> None:
    """Run the command line as ``python`` does."""
    options, rest = split_arguments(sys.argv[1:])
    if not rest or rest[0] == "-":
        os.execv(sys.executable, [sys.executable, *options, *rest])
    if options:
        again = [sys.executable, *options, "-m", __spec__.name, *rest]
        os.execv(sys.executable, again)
    sys.meta_path.insert(0, _Registrar())
    # Spawned workers start through this command again, and so register, too.
    launcher = os.path.join(os.path.dirname(sys.executable), "ctckd-python")
    if os.access(launcher, os.X_OK):
        multiprocessing.set_executable(launcher)
    _execute(rest)


def _execute(rest: List[str]) -> None:
    if rest[0] == "-m":
        module = _INSTEAD.get(rest[1], rest[1])
        sys.argv = rest[1:]
        if module != rest[1]:  # the help of the stock command lists all flags
            sys.argv = ["--help_all" if a in _HELP else a for a in rest[1:]]
        sys.path[0] = os.getcwd()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    elif rest[0] == "-c":
        sys.argv = ["-c", *rest[2:]]
        sys.path[0] = ""
        code = compile(rest[1], "<string>", "exec")
        exec(code, sys.modules["__main__"].__dict__)
    else:
        sys.argv = rest
        sys.path[0] = os.path.dirname(os.path.abspath(rest[0]))
        runpy.run_path(rest[0], run_name="__main__")


if __name__ == "__main__":
    main()
