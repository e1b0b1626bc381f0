"""Conversion of the teacher's posteriors to the student's frame rate."""

from dataclasses import replace
from fractions import Fraction
from typing import Tuple

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors, blank_padding

# Front-ends with the same frame shift round differently at the edges of an utterance.
MAX_EDGE_FRAMES = 2


class FrameMismatchError(InputError):
    """The frame counts of teacher and student do not match for an utterance.

    Attributes:
        utterance: index of the utterance in the batch.
    """

    def __init__(self, message: str, utterance: int) -> None:
        super().__init__(message)
        self.utterance = utterance


def check_shift(
    where: str, theirs: Fraction, rate: int, ours: Fraction, asked: Fraction
) -> None:
    """Check that the frame shifts of teacher and student have the configured ratio.

    Args:
        where: description of the teacher, for the error.
        theirs: frame shift of the teacher in samples.
        rate: sample rate in Hz.
        ours: frame shift of the student in samples.
        asked: ``frame_ratio``, teacher frames per student frame.

    Raises:
        InputError: the ratio differs.
    """
    ratio = ours / theirs
    if ratio != asked:
        raise InputError(
            f"{where} has a frame every {float(theirs / rate) * 1000:g} ms, the "
            f"student one every {float(ours / rate) * 1000:g} ms, and "
            f"model_conf.kd.frame_ratio is {asked}: set it to {ratio}, or change the "
            "student's subsampling (encoder_conf.input_layer, "
            "frontend_conf.hop_length)"
        )


def match_frames(
    teacher: FramePosteriors,
    lengths: Tensor,
    frames: int,
    ratio: Fraction = Fraction(1),
) -> Tuple[FramePosteriors, Tensor]:
    """Convert the teacher to the student's frame rate, and trim to common lengths.

    A merged frame covers the teacher frames whose centres lie in one student frame.
    Its blank probability is the product of their blank probabilities; the remaining
    probability is shared by the tokens in proportion to their sums. (With the mean of
    the posteriors, a spike next to a blank frame would often lose the argmax.) The
    token assigned to a merged frame is that of its strongest spike. With a top-K
    teacher, a merged frame keeps the K most probable of the tokens that its frames
    kept. The frames of a slower teacher are repeated.

    Args:
        teacher: log_probs (B, U, K).
        lengths: valid frames of the student (B,).
        frames: size of the student's time axis, T.
        ratio: teacher frames per student frame.

    Returns:
        The teacher with T' <= T frames, and the common lengths (B,).

    Raises:
        FrameMismatchError: the lengths of an utterance differ by more than
            `MAX_EDGE_FRAMES` frames, counted at the lower frame rate.
    """
    slack = MAX_EDGE_FRAMES * max(float(ratio), 1.0)
    difference = (teacher.lengths - lengths.to(teacher.lengths) * float(ratio)).abs()
    if difference.numel() and float(difference.max()) > slack:
        worst = int(difference.argmax())
        ours, theirs = int(lengths[worst]), int(teacher.lengths[worst])
        raise FrameMismatchError(
            f"an utterance has {theirs} frames of the teacher, where "
            f"{float(ours * ratio):g} were expected for {ours} of the student "
            f"(frame_ratio {ratio}), give or take {slack:g}. The cache belongs to "
            "other audio or to another frame rate: compare it with the data by "
            "`python -m espnet_ctckd.bin.check_cache`",
            worst,
        )
    if ratio > 1:
        teacher = _merge_frames(teacher, ratio)
    elif ratio < 1:
        teacher = _repeat_frames(teacher, ratio)
    both = torch.minimum(teacher.lengths, lengths)
    return _cut(teacher, min(frames, teacher.log_probs.size(1)), both), both


def _cut(teacher: FramePosteriors, frames: int, lengths: Tensor) -> FramePosteriors:
    if frames == teacher.log_probs.size(1):
        return replace(teacher, lengths=lengths)
    return teacher.map(lambda values: values[:, :frames], lengths)


def _repeat_frames(teacher: FramePosteriors, ratio: Fraction) -> FramePosteriors:
    """Repeat teacher frames: a student frame gets the one that holds its centre."""
    above, below = ratio.numerator, ratio.denominator
    frames = -(-teacher.log_probs.size(1) * below // above)
    centres = 2 * torch.arange(frames, device=teacher.log_probs.device) + 1  # (T,)
    source = centres * above // (2 * below)  # (T,)
    source = source.clamp(max=max(teacher.log_probs.size(1) - 1, 0))
    # Frames whose centre lies inside the utterance.
    lengths = ((2 * teacher.lengths * below - 1) // above + 1) // 2
    return teacher.map(lambda values: values[:, source], lengths)


class FrameGroups:
    """Groups of teacher frames whose centres lie in the same student frame.

    Args:
        teacher: log_probs (B, U, K).
        ratio: teacher frames per student frame.

    Attributes:
        target: student frame of each teacher frame (U,).
        frames: number of student frames, T.
        counts: valid teacher frames in each student frame (B, T).
    """

    def __init__(self, teacher: FramePosteriors, ratio: Fraction) -> None:
        above, below = ratio.numerator, ratio.denominator
        size = teacher.log_probs.size(1)
        centres = 2 * torch.arange(size, device=teacher.log_probs.device) + 1  # (U,)
        self.target = centres * below // (2 * above)
        self.frames = int(self.target[-1]) + 1 if size else 0
        self._valid = teacher.valid()  # (B, U)
        ones = torch.ones_like(teacher.log_probs[..., :1])
        self.counts = self.add(ones).squeeze(-1)

    def add(self, values: Tensor) -> Tensor:
        """Sum the values of each group: (B, U, ...) -> (B, T, ...)."""
        values = values.masked_fill(~self._valid.unsqueeze(-1), 0.0)
        total = values.new_zeros(values.size(0), self.frames, values.size(-1))
        return total.index_add(1, self.target, values)

    def members(self, values: Tensor, fill: float) -> Tensor:
        """List the values of each group: (B, U, K) -> (B, T, most * K)."""
        device = self.target.device
        first = torch.searchsorted(
            self.target, torch.arange(self.frames, device=device)
        )
        most = int(self.target.bincount().max())
        places = first.unsqueeze(1) + torch.arange(most, device=device)  # (T, most)
        inside = places < self.target.numel()
        places = places.clamp(max=self.target.numel() - 1)
        own = torch.arange(self.frames, device=device).unsqueeze(1)
        inside = inside & (self.target[places] == own)
        values = values.masked_fill(~self._valid.unsqueeze(-1), fill)
        listed = values[:, places].masked_fill(~inside.unsqueeze(-1), fill)
        return listed.flatten(2)


def _merge_frames(teacher: FramePosteriors, ratio: Fraction) -> FramePosteriors:
    """Merge the teacher frames whose centres lie in the same student frame."""
    if not teacher.log_probs.size(1):
        return teacher
    groups = FrameGroups(teacher, ratio)
    log_blank = groups.add(teacher.log_blank().unsqueeze(-1))  # (B, T, 1)
    if teacher.ids is None:
        ids = None
        share = groups.add(teacher.log_probs.exp())  # (B, T, V)
        blank = torch.arange(share.size(-1), device=share.device) == teacher.blank
        share = share.masked_fill(blank, 0.0)
        every = share.sum(-1, keepdim=True)
    else:
        ids, share = _sum_top_k(teacher, teacher.ids, groups)  # (B, T, K)
        blank = ids == teacher.blank
        share = share.masked_fill(blank, 0.0)
        # Of the tokens outside the top K, only the total probability is known.
        every = groups.add(-torch.expm1(teacher.log_blank()).unsqueeze(-1))
    share = share / every.clamp(min=torch.finfo(share.dtype).tiny)
    merged = torch.where(blank, log_blank.exp(), share * -torch.expm1(log_blank))
    result = FramePosteriors(
        merged.log().clamp(min=LOG_ZERO),
        (groups.counts > 0).sum(1),
        teacher.blank,
        ids=ids,
        best=_strongest_spikes(teacher, groups),
        states=None
        if teacher.states is None
        else groups.add(teacher.states)
        / groups.counts.clamp(min=1).unsqueeze(-1).to(teacher.states),
    )
    return result if ids is None else blank_padding(result)


def _sum_top_k(
    teacher: FramePosteriors, ids: Tensor, groups: FrameGroups
) -> Tuple[Tensor, Tensor]:
    """Return the top K tokens of each group, blank included, and their summed mass.

    Each frame keeps K distinct tokens, so a group has at least K.
    """
    listed = groups.members(ids, teacher.blank)  # (B, T, R)
    mass = groups.members(teacher.log_probs.exp(), 0.0)  # (B, T, R)
    listed, order = listed.sort(-1)
    mass = mass.gather(-1, order)
    # Index of each token among the distinct tokens of its group.
    place = torch.zeros_like(listed)
    place[..., 1:] = (listed[..., 1:] != listed[..., :-1]).cumsum(-1)
    sums = torch.zeros_like(mass).scatter_add(-1, place, mass)
    tokens = torch.zeros_like(listed).scatter(-1, place, listed)
    score = sums.masked_fill(tokens == teacher.blank, torch.inf)
    unused = torch.arange(score.size(-1), device=score.device) > place[..., -1:]
    score = score.masked_fill(unused, -1.0)
    kept = score.topk(ids.size(-1), -1).indices  # (B, T, K)
    return tokens.gather(-1, kept), sums.gather(-1, kept)


def _strongest_spikes(teacher: FramePosteriors, groups: FrameGroups) -> Tensor:
    """Return the token of the strongest spike of each group (B, T), blank if none."""
    best = teacher.argmax()  # (B, U)
    if teacher.ids is None:
        prob = teacher.log_probs.gather(-1, best.clamp(min=0).unsqueeze(-1))
        prob = prob.squeeze(-1).exp()  # (B, U)
    else:
        others = teacher.ids != best.unsqueeze(-1)
        prob = teacher.log_probs.masked_fill(others, LOG_ZERO).amax(-1).exp()
    spike = prob.masked_fill(~teacher.nonblank(), 0.0)  # (B, U)
    index = groups.target.expand_as(spike)
    highest = torch.zeros_like(groups.counts).scatter_reduce(1, index, spike, "amax")
    # Ties may be broken either way.
    wins = (spike > 0) & (spike == highest.gather(1, index))  # (B, U)
    token = torch.where(wins, best, torch.full_like(best, -1))
    none = torch.full(highest.shape, -1, device=best.device)
    tokens = none.scatter_reduce(1, index, token, "amax")  # (B, T)
    return tokens.masked_fill(tokens < 0, teacher.blank)
