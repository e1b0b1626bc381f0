"""The characters that a search can put into a hypothesis."""

from espnet_ctckd.decode.lexicon import read_lexicon
from espnet_ctckd.decode.recogniser import Recogniser
from espnet_ctckd.decode.search import SearchConfig
from espnet_ctckd.evaluation.score import spelled_by


def output_characters(model: Recogniser, config: SearchConfig) -> str:
    """The characters that can be in a hypothesis, as `spelled_by` gives them.

    Args:
        model: the recogniser, whose tokens spell where there is no lexicon.
        config: the search.

    Returns:
        The characters, sorted.
    """
    if config.lexicon is None:
        return spelled_by(model.tokens, model.token_type)
    return spelled_by(read_lexicon(config.lexicon, model.tokens))
