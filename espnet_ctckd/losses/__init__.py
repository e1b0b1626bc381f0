"""Frame losses between student and teacher."""

from typing import Dict

from espnet_ctckd.choices import Choice
from espnet_ctckd.losses.feature import cosine, l1
from espnet_ctckd.losses.frame import (
    blank_factorized_kl,
    cross_entropy,
    decoupled,
    guided_ctc,
    kl,
    l2,
    reverse_kl,
)

_HINTON = (
    "Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network (2015), "
    "https://arxiv.org/abs/1503.02531"
)

LOSS_CHOICES: Dict[str, Choice] = {
    "kl": Choice(kl, _HINTON),
    "reverse_kl": Choice(
        reverse_kl,
        "Gu, Dong, Wei, Huang, MiniLLM: Knowledge Distillation of Large Language "
        "Models (2023), https://arxiv.org/abs/2306.08543",
    ),
    "cross_entropy": Choice(cross_entropy, _HINTON),
    "l2": Choice(
        l2,
        "Yoon, Lee, Kim, Cho, Kim, TutorNet: Towards Flexible Knowledge Distillation "
        "for End-to-End Speech Recognition (2020), https://arxiv.org/abs/2008.00671",
    ),
    "blank_factorized_kl": Choice(
        blank_factorized_kl,
        "Tian, Li, Lyv et al., Factorized and Progressive Knowledge Distillation for "
        "CTC-based ASR Models (2024), https://doi.org/10.1016/j.specom.2024.103071",
    ),
    "decoupled": Choice(
        decoupled,
        "Zhao, Cui, Song, Qiu, Liang, Decoupled Knowledge Distillation (2022), "
        "https://arxiv.org/abs/2203.08679",
    ),
    "guided_ctc": Choice(
        guided_ctc,
        "Kurata, Audhkhasi, Guiding CTC Posterior Spike Timings for Improved Posterior "
        "Fusion and Knowledge Distillation (2019), https://arxiv.org/abs/1904.08311",
    ),
}

FEATURE_LOSS_CHOICES: Dict[str, Choice] = {
    "cosine": Choice(
        cosine,
        "Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank for CTC-Based "
        "Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503",
    ),
    "l1": Choice(
        l1,
        "Chang, Yang, Lee, DistilHuBERT: Speech Representation Learning by Layer-wise "
        "Distillation of Hidden-unit BERT (2021), https://arxiv.org/abs/2110.01900",
    ),
}
