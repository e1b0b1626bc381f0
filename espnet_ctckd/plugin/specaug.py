"""SpecAugment of two views of an utterance."""

from typing import Any, Optional, Tuple

import torch
from torch import Tensor


class TwoViews(torch.nn.Module):
    """SpecAugment of batches that may contain each utterance twice.

    Both views get the same time warp, so that their frames are aligned; their masks
    differ (Yao et al. 2024, CR-CTC, https://arxiv.org/abs/2410.05101).

    Args:
        specaug: SpecAugment module of ESPnet.

    Attributes:
        pairs: True if a batch is concatenated with itself.
    """

    def __init__(self, specaug: Any) -> None:
        super().__init__()
        self.specaug, self.pairs = specaug, False

    def forward(
        self, feats: Tensor, lengths: Tensor
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """Augment features (B, frames, dim), with lengths (B,)."""
        warp = self.specaug.time_warp
        if warp is not None:
            some = len(feats) // 2 if self.pairs else len(feats)
            warped, _ = warp(feats[:some], lengths[:some])
            feats = torch.cat([warped, warped]) if self.pairs else warped
        for mask in (self.specaug.freq_mask, self.specaug.time_mask):
            if mask is not None:
                feats, lengths = mask(feats, lengths)
        return feats, lengths
