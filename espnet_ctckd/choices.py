"""What a configuration may name, and the one error of a user's mistake.

A family of selectors, losses, reductions or teachers is a literal dict from the
name in the YAML to a `Choice`; `look_up` and `check_options` refuse what is not
there by its name, before anything runs.
"""

import inspect
from dataclasses import dataclass
from typing import Any, Callable, Mapping, Tuple, Union


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is complete: what was found and where, what was expected, what to do.
    Commands print it without a traceback and end with status 1.
    """


@dataclass(frozen=True)
class Choice:
    """One entry of a family.

    Attributes:
        fn: what does the work.
        reference: its citation, or ``baseline``.
        needs: what must be there before training starts: ``dense``, ``labels``; or
            before decoding: ``lexicon``.
        varies: of a selector, whether it takes other frames in each epoch; or the
            option with which it does.
        reads_blank: of a selector or a reduction, whether its result depends on which
            frames are blank.
    """

    fn: Callable[..., Any]
    reference: str
    needs: Tuple[str, ...] = ()
    varies: Union[bool, str] = False
    reads_blank: bool = True

    def varies_with(self, options: Mapping[str, Any]) -> bool:
        """Whether it takes other frames in each epoch, given its options."""
        if isinstance(self.varies, str):
            return bool(options.get(self.varies))
        return self.varies


def look_up(family: str, name: object, choices: Mapping[str, Choice]) -> Choice:
    """Find an entry by its name.

    Args:
        family: what the names stand for, e.g. ``selector``.
        name: what the configuration says.
        choices: the family.

    Returns:
        The entry.

    Raises:
        InputError: there is none of that name.
    """
    if not isinstance(name, str) or name not in choices:
        raise InputError(
            f"unknown {family} {name!r}; choose one of: {', '.join(choices)}"
        )
    return choices[name]


def check_options(
    family: str, name: str, fn: Callable[..., Any], options: Mapping[str, Any]
) -> None:
    """Hold options against the keyword-only parameters of a function.

    Args:
        family: what the name stands for, e.g. ``loss``.
        name: the name in the configuration.
        fn: takes its options as keyword-only parameters.
        options: what the configuration gives.

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
