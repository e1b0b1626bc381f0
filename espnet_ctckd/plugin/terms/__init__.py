"""Loss terms of the student, by name.

To add a term, write a class in a new file and add a line to `TERM_CHOICES`. Its
configuration is ``model_conf.kd.terms.<name>``.
"""

from typing import Any, Dict, List, Type

from espnet_ctckd.config import PART_CHOICES, KDConfig
from espnet_ctckd.plugin.terms.base import Term
from espnet_ctckd.plugin.terms.ctc import CTCTerm
from espnet_ctckd.plugin.terms.feature import FeatureTerm
from espnet_ctckd.plugin.terms.frames import FramesTerm
from espnet_ctckd.plugin.terms.inter import InterTerm
from espnet_ctckd.plugin.terms.nbest import NBestTerm
from espnet_ctckd.plugin.terms.views import ViewsTerm

# In the order in which they are combined.
TERM_CHOICES: Dict[str, Type[Term]] = {
    "ctc": CTCTerm,
    "frames": FramesTerm,
    "feature": FeatureTerm,
    "nbest": NBestTerm,
    "inter": InterTerm,
    "views": ViewsTerm,
}

for _name, _term in TERM_CHOICES.items():
    if _term.config_class is not None:
        PART_CHOICES.setdefault(_name, _term.config_class)


def build_terms(config: KDConfig, model: Any) -> List[Term]:
    """Build the terms that a configuration asks for.

    Args:
        config: ``model_conf.kd``.
        model: the student.

    Returns:
        The terms, in the order in which they are combined.
    """
    terms = (term(name, config, model) for name, term in TERM_CHOICES.items())
    return [term for term in terms if term.asked]
