"""What a teacher says about a batch, and the masks of its padding."""

from dataclasses import dataclass, replace
from typing import Callable, Optional

import torch
from torch import Tensor

# The log-probability of what is impossible: exp() of it is 0 in every float type,
# and unlike -inf it may be multiplied by 0.
LOG_ZERO = -1.0e4


@dataclass(frozen=True)
class FramePosteriors:
    """Frame posteriors of a batch.

    The mass outside the kept tokens is what the kept ones lack to 1; it is never
    renormalised away.

    Attributes:
        log_probs: log-probabilities (B, U, K); K == V when dense.
        lengths: valid frames of each utterance (B,).
        blank: index of the blank token.
        ids: token of each kept log-probability (B, U, K), distinct within a frame
            and always with the blank among them; None when dense.
        best: the token that each frame stands for (B, U), where that is not the most
            probable one: frames were merged, or a prior was taken out.
        states: the hidden states that they were computed from (B, U, D), where the
            student learns these, too.
    """

    log_probs: Tensor
    lengths: Tensor
    blank: int
    ids: Optional[Tensor] = None
    best: Optional[Tensor] = None
    states: Optional[Tensor] = None

    def argmax(self) -> Tensor:
        """The token that each frame stands for (B, U)."""
        if self.best is not None:
            return self.best
        best = self.log_probs.argmax(-1)  # (B, U)
        if self.ids is None:
            return best
        return self.ids.gather(-1, best.unsqueeze(-1)).squeeze(-1)  # (B, U)

    def nonblank(self) -> Tensor:
        """Valid frames that do not stand for the blank (B, U), bool."""
        return (self.argmax() != self.blank) & self.valid()

    def log_blank(self) -> Tensor:
        """Log-probability of the blank (B, U), 0 in padding."""
        if self.ids is None:
            said = self.log_probs[..., self.blank]  # (B, U)
        else:
            others = self.ids != self.blank  # (B, U, K)
            said = self.log_probs.masked_fill(others, LOG_ZERO).amax(-1)  # (B, U)
        return torch.where(self.valid(), said, said.new_zeros(()))

    def log_rest(self) -> Tensor:
        """Log of the mass outside the kept tokens (B, U); `LOG_ZERO` where none."""
        return log_complement(self.log_probs.logsumexp(-1))

    def dense(self, tokens: int) -> Tensor:
        """Probabilities of all V tokens (B, U, V); 0 for those that were not kept."""
        return self.log_dense(tokens).exp()

    def log_dense(self, tokens: int) -> Tensor:
        """Log-probabilities (B, U, V); `LOG_ZERO` for tokens that were not kept."""
        if self.ids is None:
            return self.log_probs
        shape = (*self.log_probs.shape[:-1], tokens)
        none = self.log_probs.new_full(shape, LOG_ZERO)
        return none.scatter(-1, self.ids, self.log_probs)

    def map(
        self, fn: Callable[[Tensor], Tensor], lengths: Optional[Tensor] = None
    ) -> "FramePosteriors":
        """Apply a function to every tensor that has a row for each frame.

        Args:
            fn: from (B, U, ...) to (B', U', ...), the same for all of them.
            lengths: valid frames of the result (B',); None where they stay.

        Returns:
            The result, with the same blank.
        """

        def apply(values: Optional[Tensor]) -> Optional[Tensor]:
            return None if values is None else fn(values)

        return replace(
            self,
            log_probs=fn(self.log_probs),
            lengths=self.lengths if lengths is None else lengths,
            ids=apply(self.ids),
            best=apply(self.best),
            states=apply(self.states),
        )

    def valid(self) -> Tensor:
        """The frames that are not padding (B, U), bool."""
        return length_mask(self.lengths, self.log_probs.size(1))


def log_complement(log_p: Tensor) -> Tensor:
    """log(1 - p) from log p, elementwise; `LOG_ZERO` (no gradient) where p >= 1.

    Args:
        log_p: log-probabilities of any shape; rounding may put them above 0.

    Returns:
        Same shape.
    """
    # The smallest gap to 1 that the float type resolves, so that the gradient of
    # what is below it neither overflows nor appears.
    gap = torch.finfo(log_p.dtype).eps
    inside = log_p < -gap
    safe = torch.where(inside, log_p, torch.full_like(log_p, -1.0))
    return torch.where(
        inside, torch.log(-torch.expm1(safe)), torch.full_like(log_p, LOG_ZERO)
    )


def at_least_float32(x: Tensor) -> Tensor:
    """The same values in float32; float64 is left as it is."""
    return x if x.dtype == torch.float64 else x.float()


def length_mask(lengths: Tensor, frames: int) -> Tensor:
    """True on the valid frames.

    Args:
        lengths: (B,).
        frames: size of the time axis, T.

    Returns:
        (B, T), bool.
    """
    return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(-1)


def blank_padding(teacher: FramePosteriors) -> FramePosteriors:
    """Make padding certain blank, whatever stood there.

    Args:
        teacher: log_probs (B, U, K); NaN and any id may stand in the padding.

    Returns:
        The same on valid frames.
    """
    padded = ~teacher.valid()  # (B, U)
    if not bool(padded.any()):
        return teacher
    log_probs = teacher.log_probs.clone()
    said = log_probs.new_full((log_probs.size(-1),), LOG_ZERO)
    ids, best = teacher.ids, teacher.best
    if ids is None:
        said[teacher.blank] = 0.0
    else:
        # Ids are looked up even where their value is discarded, so they must be
        # tokens: all blank, of which the first holds the whole mass.
        said[0] = 0.0
        ids = ids.masked_fill(padded.unsqueeze(-1), teacher.blank)
    log_probs[padded] = said
    if best is not None:
        best = best.masked_fill(padded, teacher.blank)
    return replace(teacher, log_probs=log_probs, ids=ids, best=best)
