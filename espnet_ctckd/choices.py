"""Registry entries for selectors, losses and teachers, and the error for bad input.

A family of selectors, losses, reductions or teachers is a literal dict from the
name in the YAML to a `Choice`; `look_up` and `check_options` reject unknown names
and options before anything runs.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Tuple, Union


class InputError(ValueError):
    """Invalid input from the user.

    The message is complete: what was found and where, what was expected, what to do.
    Commands print it without a traceback and exit with status 1.
    """


@dataclass(frozen=True)
class Choice:
    """One entry of a family.

    Attributes:
        fn: the function or class that implements the entry.
        reference: citation, or ``baseline``.
        needs: requirements for training (``dense``, ``labels``) or for decoding
            (``lexicon``).
        varies: True if a selector selects other frames in each epoch, or the name of
            the option that makes it do so.
        reads_blank: True if the result of a selector or reduction depends on which
            frames are blank.
    """

    fn: Callable[..., Any]
    reference: str
    needs: Tuple[str, ...] = ()
    varies: Union[bool, str] = False
    reads_blank: bool = True

    def varies_with(self, options: Mapping[str, Any]) -> bool:
        """Return True if a selector with these options varies between epochs."""
        if isinstance(self.varies, str):
            return bool(options.get(self.varies))
        return self.varies


def look_up(family: str, name: object, choices: Mapping[str, Choice]) -> Choice:
    """Return an entry by its name.

    Args:
        family: name of the family, e.g. ``selector``.
        name: value in the configuration.
        choices: entries of the family.

    Returns:
        The entry.

    Raises:
        InputError: no entry has that name.
    """
    if not isinstance(name, str) or name not in choices:
        raise InputError(
            f"unknown {family} {name!r}; choose one of: {', '.join(choices)}"
        )
    return choices[name]


def check_options(
    family: str, name: str, fn: Callable[..., Any], options: Mapping[str, Any]
) -> None:
    """Check options against the keyword-only parameters of a function.

    Args:
        family: name of the family, e.g. ``loss``.
        name: value in the configuration.
        fn: function with its options as keyword-only parameters.
        options: options in the configuration.

    Raises:
        InputError: an option is unknown, or one without a default is missing.
    """
    takes = {
        key: parameter
        for key, parameter in inspect.signature(fn).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    listed = ", ".join(takes) or "no options"
    for key in options:
        if key not in takes:
            raise InputError(
                f"unknown option {key!r} for {family} {name!r}; it takes: {listed}"
            )
    for key, parameter in takes.items():
        if parameter.default is inspect.Parameter.empty and key not in options:
            raise InputError(
                f"{family} {name!r} lacks the option {key!r}; it takes: {listed}"
            )
