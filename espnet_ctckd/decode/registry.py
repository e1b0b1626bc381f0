"""Decoders, by name.

To add a decoder, write a class in a file of its own and add a line to
`DECODER_CHOICES`. Its options are fields of `SearchConfig`; files that it does not use
are refused.
"""

from typing import Dict

from espnet_ctckd.choices import Choice
from espnet_ctckd.decode.greedy import GreedyDecoder
from espnet_ctckd.decode.lexicon import LexiconDecoder
from espnet_ctckd.decode.prefix_beam import PrefixBeamDecoder

DECODER_CHOICES: Dict[str, Choice] = {
    "greedy": Choice(
        GreedyDecoder,
        "Graves et al., Connectionist Temporal Classification (2006), "
        "https://doi.org/10.1145/1143844.1143891",
    ),
    "prefix_beam": Choice(
        PrefixBeamDecoder,
        "Graves, Jaitly, Towards End-To-End Speech Recognition with Recurrent Neural "
        "Networks (2014), https://proceedings.mlr.press/v32/graves14.html",
    ),
    "lexicon": Choice(
        LexiconDecoder,
        "Collobert, Puhrsch, Synnaeve, Wav2Letter: an End-to-End ConvNet-based Speech "
        "Recognition System (2016), https://arxiv.org/abs/1609.03193",
        needs=("lexicon",),
    ),
}
