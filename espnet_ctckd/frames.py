"""The teacher's frames at the student's frame rate."""

from dataclasses import replace
from fractions import Fraction
from typing import Tuple

import torch
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.posteriors import LOG_ZERO, FramePosteriors, blank_padding

# Front-ends of one frame shift round differently at the edges of an utterance.
MAX_EDGE_FRAMES = 2


class FrameMismatchError(InputError):
    """An utterance has other frames in the teacher than in the student.

    Attributes:
        utterance: its place in the batch.
    """

    def __init__(self, message: str, utterance: int) -> None:
        super().__init__(message)
        self.utterance = utterance


def check_shift(
    where: str, theirs: Fraction, rate: int, ours: Fraction, asked: Fraction
) -> None:
    """Refuse a teacher of another frame rate than the student asks for.

    Args:
        where: what the teacher is, for the error.
        theirs: samples from one frame of it to the next.
        rate: samples per second.
        ours: samples from one frame of the student to the next.
        asked: ``frame_ratio``, the teacher's frames to one of the student's.

    Raises:
        InputError: the rates are others.
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
    """Bring the teacher to the student's frames, and cut both to what they share.

    A student's frame joins the teacher's frames whose centres lie in it. It is as
    surely blank as all of them are, the product of their blanks; the rest goes to the
    tokens in the proportion of their sums. (In their mean, a spike beside a blank would
    often not be the best of its frame any more.) It stands for the
    most probable token but blank that any of these stood for. Of a top-K teacher it
    keeps the K most probable of the tokens that any of these kept. Where there are
    none, because the teacher is the slower one, it gets the teacher's frame that it
    lies in.

    Args:
        teacher: log_probs (B, U, K).
        lengths: the student's frames of each utterance (B,).
        frames: size of the student's time axis, T.
        ratio: the teacher's frames to one of the student's, in the same time.

    Returns:
        The teacher with T' <= T frames, and the common lengths (B,).

    Raises:
        FrameMismatchError: an utterance differs by more than `MAX_EDGE_FRAMES` of the
            slower one's frames.
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
            "other audio or to another frame rate: hold it against the data with "
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
    """The teacher's frame in which each of the student's has its centre."""
    above, below = ratio.numerator, ratio.denominator
    frames = -(-teacher.log_probs.size(1) * below // above)
    centres = 2 * torch.arange(frames, device=teacher.log_probs.device) + 1  # (T,)
    source = centres * above // (2 * below)  # (T,)
    source = source.clamp(max=max(teacher.log_probs.size(1) - 1, 0))
    # Frames whose centre lies inside the utterance.
    lengths = ((2 * teacher.lengths * below - 1) // above + 1) // 2
    return teacher.map(lambda values: values[:, source], lengths)


class FrameGroups:
    """Which of the teacher's frames have their centres in each of the student's.

    Args:
        teacher: log_probs (B, U, K).
        ratio: its frames to one of the student's.

    Attributes:
        target: the student's frame of each of the teacher's (U,).
        frames: of the student, T.
        counts: valid frames of the teacher in each (B, T).
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
        """Sums over each group: (B, U, ...) -> (B, T, ...)."""
        values = values.masked_fill(~self._valid.unsqueeze(-1), 0.0)
        total = values.new_zeros(values.size(0), self.frames, values.size(-1))
        return total.index_add(1, self.target, values)

    def members(self, values: Tensor, fill: float) -> Tensor:
        """The members of each group: (B, U, K) -> (B, T, most * K)."""
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
    """The teacher's frames whose centres lie in each of the student's, joined."""
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
        ids, share = _add_kept(teacher, teacher.ids, groups)  # (B, T, K)
        blank = ids == teacher.blank
        share = share.masked_fill(blank, 0.0)
        # Of tokens that are not kept only the mass is known.
        every = groups.add(-torch.expm1(teacher.log_blank()).unsqueeze(-1))
    share = share / every.clamp(min=torch.finfo(share.dtype).tiny)
    merged = torch.where(blank, log_blank.exp(), share * -torch.expm1(log_blank))
    joined = FramePosteriors(
        merged.log().clamp(min=LOG_ZERO),
        (groups.counts > 0).sum(1),
        teacher.blank,
        ids=ids,
        best=_strongest(teacher, groups),
        states=None
        if teacher.states is None
        else groups.add(teacher.states)
        / groups.counts.clamp(min=1).unsqueeze(-1).to(teacher.states),
    )
    return joined if ids is None else blank_padding(joined)


def _add_kept(
    teacher: FramePosteriors, ids: Tensor, groups: FrameGroups
) -> Tuple[Tensor, Tensor]:
    """The K most probable tokens of each group, blank among them, and their sums.

    Each frame keeps K distinct tokens, so that a group has no fewer.
    """
    listed = groups.members(ids, teacher.blank)  # (B, T, R)
    mass = groups.members(teacher.log_probs.exp(), 0.0)  # (B, T, R)
    listed, order = listed.sort(-1)
    mass = mass.gather(-1, order)
    # The place of each token among the different ones.
    place = torch.zeros_like(listed)
    place[..., 1:] = (listed[..., 1:] != listed[..., :-1]).cumsum(-1)
    sums = torch.zeros_like(mass).scatter_add(-1, place, mass)
    tokens = torch.zeros_like(listed).scatter(-1, place, listed)
    worth = sums.masked_fill(tokens == teacher.blank, torch.inf)
    unused = torch.arange(worth.size(-1), device=worth.device) > place[..., -1:]
    worth = worth.masked_fill(unused, -1.0)
    kept = worth.topk(ids.size(-1), -1).indices  # (B, T, K)
    return tokens.gather(-1, kept), sums.gather(-1, kept)


def _strongest(teacher: FramePosteriors, groups: FrameGroups) -> Tensor:
    """The token of the strongest spike of each group (B, T), blank where is none."""
    best = teacher.argmax()  # (B, U)
    if teacher.ids is None:
        said = teacher.log_probs.gather(-1, best.clamp(min=0).unsqueeze(-1))
        said = said.squeeze(-1).exp()  # (B, U)
    else:
        others = teacher.ids != best.unsqueeze(-1)
        said = teacher.log_probs.masked_fill(others, LOG_ZERO).amax(-1).exp()
    spike = said.masked_fill(~teacher.nonblank(), 0.0)  # (B, U)
    index = groups.target.expand_as(spike)
    highest = torch.zeros_like(groups.counts).scatter_reduce(1, index, spike, "amax")
    # Those of equal strength do not matter.
    wins = (spike > 0) & (spike == highest.gather(1, index))  # (B, U)
    token = torch.where(wins, best, torch.full_like(best, -1))
    none = torch.full(highest.shape, -1, device=best.device)
    stands = none.scatter_reduce(1, index, token, "amax")  # (B, T)
    return stands.masked_fill(stands < 0, teacher.blank)
