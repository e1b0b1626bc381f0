"""How wrong is the student at a frame?"""

from typing import Dict

from espnet_ctckd.choices import Choice
from espnet_ctckd.losses.frame import kl

LOSS_CHOICES: Dict[str, Choice] = {
    "kl": Choice(
        kl,
        "Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015), "
        "https://arxiv.org/abs/1503.02531",
    ),
}
