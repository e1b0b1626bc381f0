"""Frame posteriors of a batch, and padding masks."""

from dataclasses import dataclass, replace
from typing import Callable, Optional

import torch
from torch import Tensor

# Log-probability of an impossible event: its exp() is 0 in every float type, and
# unlike -inf it may be multiplied by 0.
LOG_ZERO = -1.0e4


@dataclass(frozen=True)
class FramePosteriors:
    """Frame posteriors of a batch.

    The tail mass is 1 minus the sum of the kept tokens; they are never renormalised.

    Attributes:
        log_probs: log-probabilities (B, U, K); K == V when dense.
        lengths: valid frames of each utterance (B,).
        blank: index of the blank token.
        ids: token of each kept log-probability (B, U, K), distinct within a frame
            and always including the blank; None when dense.
        best: token assigned to each frame (B, U), where it is not the argmax because
            frames were merged or a prior was removed; None for the argmax.
        states: hidden states before the output layer (B, U, D), where the student
            learns from them.
    """

    log_probs: Tensor
    lengths: Tensor
    blank: int
    ids: Optional[Tensor] = None
    best: Optional[Tensor] = None
    states: Optional[Tensor] = None

    def argmax(self) -> Tensor:
        """Return the token assigned to each frame (B, U)."""
        if self.best is not None:
            return self.best
        best = self.log_probs.argmax(-1)  # (B, U)
        if self.ids is None:
            return best
        return self.ids.gather(-1, best.unsqueeze(-1)).squeeze(-1)  # (B, U)

    def nonblank(self) -> Tensor:
        """Return the mask of valid non-blank frames (B, U), bool."""
        return (self.argmax() != self.blank) & self.valid()

    def log_blank(self) -> Tensor:
        """Return the log-probability of the blank (B, U), 0 in padding."""
        if self.ids is None:
            log_blank = self.log_probs[..., self.blank]  # (B, U)
        else:
            others = self.ids != self.blank  # (B, U, K)
            log_blank = self.log_probs.masked_fill(others, LOG_ZERO).amax(-1)  # (B, U)
        return torch.where(self.valid(), log_blank, log_blank.new_zeros(()))

    def log_rest(self) -> Tensor:
        """Return the log of the tail mass (B, U); `LOG_ZERO` where it is 0."""
        return log_complement(self.log_probs.logsumexp(-1))

    def dense(self, tokens: int) -> Tensor:
        """Return probabilities of all V tokens (B, U, V); 0 outside the top K."""
        return self.log_dense(tokens).exp()

    def log_dense(self, tokens: int) -> Tensor:
        """Return log-probabilities (B, U, V); `LOG_ZERO` outside the top K."""
        if self.ids is None:
            return self.log_probs
        shape = (*self.log_probs.shape[:-1], tokens)
        none = self.log_probs.new_full(shape, LOG_ZERO)
        return none.scatter(-1, self.ids, self.log_probs)

    def map(
        self, fn: Callable[[Tensor], Tensor], lengths: Optional[Tensor] = None
    ) -> "FramePosteriors":
        """Apply a function to every tensor with a time axis.

        Args:
            fn: from (B, U, ...) to (B', U', ...), the same for all of them.
            lengths: valid frames of the result (B',); None if unchanged.

        Returns:
            The mapped posteriors, with the same blank.
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
        """Return the mask of frames that are not padding (B, U), bool."""
        return length_mask(self.lengths, self.log_probs.size(1))


def log_complement(log_p: Tensor) -> Tensor:
    """Compute log(1 - p) from log p; `LOG_ZERO` without gradient where p >= 1.

    Args:
        log_p: log-probabilities of any shape; rounding may put them above 0.

    Returns:
        Tensor of the same shape.
    """
    # The smallest gap to 1 that the float type resolves; below it the gradient is 0
    # and cannot overflow.
    gap = torch.finfo(log_p.dtype).eps
    inside = log_p < -gap
    safe = torch.where(inside, log_p, torch.full_like(log_p, -1.0))
    return torch.where(
        inside, torch.log(-torch.expm1(safe)), torch.full_like(log_p, LOG_ZERO)
    )


def at_least_float32(x: Tensor) -> Tensor:
    """Convert to float32; float64 is left unchanged."""
    return x if x.dtype == torch.float64 else x.float()


def length_mask(lengths: Tensor, frames: int) -> Tensor:
    """Return a mask that is True on valid frames.

    Args:
        lengths: valid frames (B,).
        frames: size of the time axis, T.

    Returns:
        Mask (B, T), bool.
    """
    return torch.arange(frames, device=lengths.device) < lengths.unsqueeze(-1)


def blank_padding(teacher: FramePosteriors) -> FramePosteriors:
    """Set padding to blank with probability 1.

    Args:
        teacher: log_probs (B, U, K); the padding may hold NaN and any id.

    Returns:
        Posteriors, unchanged on valid frames.
    """
    padded = ~teacher.valid()  # (B, U)
    if not bool(padded.any()):
        return teacher
    log_probs = teacher.log_probs.clone()
    certain_blank = log_probs.new_full((log_probs.size(-1),), LOG_ZERO)
    ids, best = teacher.ids, teacher.best
    if ids is None:
        certain_blank[teacher.blank] = 0.0
    else:
        # Ids are looked up even where their value is discarded, so they must be valid
        # tokens: all are blank, and the first has probability 1.
        certain_blank[0] = 0.0
        ids = ids.masked_fill(padded.unsqueeze(-1), teacher.blank)
    log_probs[padded] = certain_blank
    if best is not None:
        best = best.masked_fill(padded, teacher.blank)
    return replace(teacher, log_probs=log_probs, ids=ids, best=best)
