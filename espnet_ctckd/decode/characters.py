"""Characters that can occur in a hypothesis."""

from espnet_ctckd.decode.lexicon import read_lexicon
from espnet_ctckd.decode.recogniser import Recogniser
from espnet_ctckd.decode.search import SearchConfig
from espnet_ctckd.evaluation.score import spelled_by


def output_characters(model: Recogniser, config: SearchConfig) -> str:
    """Return the characters that can occur in a hypothesis; see `spelled_by`.

    Args:
        model: the recogniser; its tokens count if there is no lexicon.
        config: options of the search.

    Returns:
        The characters, sorted.
    """
    if config.lexicon is None:
        return spelled_by(model.tokens, model.token_type)
    return spelled_by(read_lexicon(config.lexicon, model.tokens))
