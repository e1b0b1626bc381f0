"""Registry of single teachers, by kind."""

import inspect
from typing import Any, Dict, Mapping, Optional

from espnet_ctckd.choices import Choice, InputError, check_options, look_up
from espnet_ctckd.teachers.espnet import open_espnet
from espnet_ctckd.teachers.huggingface import HuggingFaceTeacher
from espnet_ctckd.teachers.python import PythonTeacher
from espnet_ctckd.teachers.torchaudio import TorchaudioTeacher

SINGLE_CHOICES: Dict[str, Choice] = {
    "espnet": Choice(open_espnet, "baseline"),
    "huggingface": Choice(HuggingFaceTeacher, "baseline"),
    "torchaudio": Choice(TorchaudioTeacher, "baseline"),
    "python": Choice(PythonTeacher, "baseline"),
}
# Kinds that accept any options.
_OPEN = ("python",)
_TYPES = ((bool, "true or false"), (str, "text"), (int, "a whole number"))


def open_kind(
    choices: Mapping[str, Choice],
    kind: object,
    source: Optional[str],
    device: str,
    options: Mapping[str, Any],
) -> Any:
    """Open a teacher.

    Args:
        choices: available kinds.
        kind: kind of the teacher.
        source: folder, id, name or file, depending on the kind.
        device: device of the teacher.
        options: options of the kind.

    Returns:
        A `Teacher`.

    Raises:
        InputError: the kind or an option is unknown, or the teacher cannot be opened.
    """
    choice = look_up("teacher_type", kind, choices)
    if kind not in _OPEN:
        check_options("teacher_type", str(kind), choice.fn, options)
        _check_types(str(kind), choice.fn, options)
    if source is None and kind != "espnet":
        raise InputError(f"a teacher of the type {kind} needs a source (`source`)")
    return choice.fn(source, device=device, **options)


def _check_types(kind: str, made: Any, options: Mapping[str, Any]) -> None:
    """Check the types of options that are annotated as bool, str or int."""
    taken = inspect.signature(made).parameters
    for name, value in options.items():
        for wanted, name_of_type in _TYPES:
            asked = taken[name].annotation in (wanted, Optional[wanted])
            fits = type(value) is wanted  # a bool is an int to isinstance
            if asked and value is not None and not fits:
                raise InputError(
                    f"the option {name} of teacher_type {kind!r} is {value!r}; give "
                    f"{name_of_type}"
                )
