"""The student: an ESPnet CTC model whose loss has a distillation term."""

from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.config import FrameConfig, KDConfig
from espnet_ctckd.data.prior import read_prior
from espnet_ctckd.frames import FrameMismatchError
from espnet_ctckd.losses.sequence import Hypotheses
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.plugin.batch import Batch, EncoderOutput
from espnet_ctckd.plugin.model_checks import check_model
from espnet_ctckd.plugin.specaug import TwoViews
from espnet_ctckd.plugin.terms import build_terms
from espnet_ctckd.plugin.terms.base import Term
from espnet_ctckd.posteriors import FramePosteriors

# Maps audio (B, S) and lengths (B,) to a teacher's posteriors and statistics.
Online = Callable[[Tensor, Tensor], Tuple[FramePosteriors, Dict[str, float]]]


class ESPnetCTCKDModel(ESPnetASRModel):
    """loss = (1 - lambda) CTC + lambda distillation, on an encoder with a CTC head.

    The parameters and their names are those of the plain model, except
    `own_parameters`; without these, checkpoints are interchangeable with
    ``model: espnet``. All arguments except ``kd`` are those of `ESPnetASRModel`;
    ``ctc_weight`` is 1.

    Args:
        kd: `KDConfig`, or the mapping ``model_conf.kd`` of the configuration.

    Raises:
        InputError: the configuration does not allow distillation.

    References:
        Hilmes, Rossenbach, Schlüter, Analyzing the Importance of Blank for CTC-Based
        Knowledge Distillation (2025), https://arxiv.org/abs/2506.01503
    """

    def __init__(self, *args: Any, kd: Any, **kwargs: Any) -> None:
        config = kd if isinstance(kd, KDConfig) else KDConfig.from_dict(kd)
        check_model(config, kwargs)
        super().__init__(*args, **{"ctc_weight": 1.0, **kwargs})
        self.kd_config = config
        self.epoch = 1
        self.progress = 0.0
        if config.views is not None and kwargs.get("specaug") is not None:
            self.specaug: torch.nn.Module = TwoViews(kwargs["specaug"])
        self.terms = build_terms(config, self)
        # The modules that terms have added, by attribute.
        self.added: Dict[str, str] = {}
        for term in self.terms:
            for name, module in term.modules().items():
                self.add_module(name, module)
                self.added[name] = term.name
        # One for each term with a frame-wise distance; see `build_objectives`.
        self.objectives = torch.nn.ModuleDict()
        # The trainer opens the online teacher if the configuration asks for one.
        self.online: Optional[Online] = None

    def build_objectives(self) -> None:
        """Build the objectives of the terms, which only training needs.

        Later calls do nothing. Inference reads no priors.

        Raises:
            InputError: the priors are missing, or their tokens are not the student's.
        """
        if self.objectives:
            return
        device = self.ctc.ctc_lo.weight.device
        for term in self.terms:
            if term.frame_config is not None:
                objective = self._objective(term.frame_config)
                objective = objective.train(self.training).to(device)
                objective.epoch = self.epoch
                self.objectives[term.name] = objective

    def _objective(self, config: FrameConfig) -> KDObjective:
        prior = None
        if config.prior_file is not None:
            blank = self.token_list[self.blank_id]
            prior = torch.tensor(read_prior(config.prior_file, self.token_list, blank))
        return KDObjective(config, prior)

    def selecting(self) -> List[KDObjective]:
        """The objectives that select frames of the teacher's posteriors."""
        return [term.objective for term in self.terms if term.selects]

    def set_epoch(self, epoch: int, last: int) -> None:
        """Set the epoch, for everything that is scheduled by epochs.

        Args:
            epoch: number of the current epoch, from 1.
            last: number of the last epoch.
        """
        self.epoch = epoch
        self.progress = (epoch - 1) / max(last - 1, 1)
        for objective in self.objectives.values():
            assert isinstance(objective, KDObjective)
            objective.epoch = epoch

    def forward(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Optional[Tensor] = None,
        text_lengths: Optional[Tensor] = None,
        teacher: Optional[Tensor] = None,
        teacher_lengths: Optional[Tensor] = None,
        teacher_ids: Optional[Tensor] = None,
        teacher_states: Optional[Tensor] = None,
        nbest: Optional[Tensor] = None,
        nbest_sizes: Optional[Tensor] = None,
        nbest_weights: Optional[Tensor] = None,
        **kwargs: Any,
    ) -> Tuple[Tensor, Dict[str, Tensor], Tensor]:
        """Compute the loss of a batch.

        Args:
            speech: (B, S) or features (B, frames, dim).
            speech_lengths: (B,).
            text: labels (B, N); if lambda is 1, they are read in evaluation only, for
                the error rate.
            text_lengths: (B,).
            teacher: log-probabilities of the teacher (B, U, K).
            teacher_lengths: (B,).
            teacher_ids: token ids of the log-probabilities (B, U, K); None when dense.
            teacher_states: hidden states of the teacher (B, U, D).
            nbest: concatenated tokens of the teacher's hypotheses (B, L).
            nbest_sizes: number of tokens of each hypothesis (B, N), negative in
                padding.
            nbest_weights: (B, N), 0 in padding.
            **kwargs: ``utt_id`` and other data from ESPnet's trainer.

        Returns:
            The loss (1,), statistics and the number of utterances (1,).

        Raises:
            InputError: the batch lacks the labels or the teacher.
        """
        self.build_objectives()
        utterances = speech.size(0)
        posteriors = None
        if teacher is not None and teacher.dim() != 3:
            raise InputError(
                "the teacher's posteriors have come packed, as ESPnet's own task reads "
                "them: train with `python -m espnet_ctckd.bin.asr_train`, or with "
                "`ctckd-python -m espnet2.bin.asr_train`"
            )
        if teacher is not None and teacher_lengths is not None:
            posteriors = FramePosteriors(
                teacher,
                teacher_lengths,
                self.blank_id,
                teacher_ids,
                states=teacher_states,
            )
        stats: Dict[str, Any] = {}
        if self.online is not None:
            posteriors, spent = self.online(speech, speech_lengths)
            stats.update(spent)
        hypotheses = None
        if nbest is not None and nbest_sizes is not None and nbest_weights is not None:
            hypotheses = Hypotheses(nbest, nbest_sizes, nbest_weights)
        batch = Batch(
            speech, speech_lengths, text, text_lengths, posteriors, hypotheses, kwargs
        )
        self._check_batch(batch)
        single = [t for t in self.terms if self.training and t.alone(self.epoch)]
        try:
            if single:
                loss = self._single_loss(single[0], batch, stats)
            else:
                loss = self._sum_losses(batch, stats)
        except FrameMismatchError as error:
            names = kwargs.get("utt_id") or [
                f"{i} of the batch" for i in range(utterances)
            ]
            named = names[error.utterance % utterances]
            raise InputError(f"utterance {named}: {error}") from None
        stats["loss"] = loss.detach()
        gathered: Tuple[Tensor, Dict[str, Tensor], Tensor] = force_gatherable(
            (loss, stats, utterances), loss.device
        )
        return gathered

    def _sum_losses(self, batch: Batch, stats: Dict[str, Any]) -> Tensor:
        """Compute all terms and combine them in order."""
        views = self.training and any(term.doubles for term in self.terms)
        if views:
            batch = batch.twice()
        reads = not self.training or any(term.reads_logits for term in self.terms)
        encoded = self._encode(batch, reads, views)
        loss = batch.speech.new_zeros(())
        for term in self.terms:
            own = term.forward(batch, encoded, stats)
            if own is not None:
                loss = term.combine(loss, own)
        if not (self.training or self.kd_config.uses_ctc or batch.text is None):
            stats["cer_ctc"] = self.error_rate(encoded.all_logits, batch.text)
        return loss

    def _single_loss(self, term: Term, batch: Batch, stats: Dict[str, Any]) -> Tensor:
        """Compute the loss of an epoch with a single term."""
        encoded = self._encode(batch, term.reads_logits, views=False)
        loss = term.forward(batch, encoded, stats)
        assert loss is not None
        # The parameters of the other terms get a zero gradient instead of None, because
        # distributed training waits for the gradients of all parameters.
        others = ["ctc", *(name for name, of in self.added.items() if of != term.name)]
        idle = [p for name in others for p in getattr(self, name).parameters()]
        return loss + 0.0 * torch.stack([p.sum() for p in idle]).sum()

    def _check_batch(self, batch: Batch) -> None:
        config = self.kd_config
        if config.needs_labels and batch.text is None:
            raise InputError(
                f"the batch has no text, and {config.label_reader}: give the "
                f"transcripts{config.without_labels}"
            )
        if config.needs_teacher and batch.teacher is None:
            if config.online:
                raise InputError(
                    "kd.teacher.mode is online, and the teacher is opened by the "
                    "training only: start `python -m espnet_ctckd.bin.asr_train`"
                )
            raise InputError(
                "the batch has no teacher: give the cache, e.g. "
                "--train_data_path_and_name_and_type <cache>/teacher.scp,teacher,"
                "kaldi_ark, and the same for --valid_data_path_and_name_and_type"
            )
        for term in self.terms:
            term.check(batch)

    def _encode(self, batch: Batch, all_frames: bool, views: bool) -> EncoderOutput:
        """Run the encoder and, if all frames are needed, the output layer."""
        if isinstance(self.specaug, TwoViews):
            self.specaug.pairs = views
        states, lengths = self.encode(batch.speech, batch.speech_lengths)
        layers: List[Tuple[int, Tensor]] = []
        if isinstance(states, tuple):
            states, layers = states
        logits = self.ctc.ctc_lo(states) if all_frames else None  # (B, T, V)
        return EncoderOutput(states, lengths, layers, logits)

    def collect_feats(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Optional[Tensor] = None,
        text_lengths: Optional[Tensor] = None,
        **kwargs: Any,
    ) -> Dict[str, Tensor]:
        """Extract the features whose statistics the normalisation needs.

        Args:
            speech: (B, S) or features (B, frames, dim).
            speech_lengths: (B,).
            text: not read.
            text_lengths: not read.
            **kwargs: not read.

        Returns:
            ``feats`` (B, frames, dim) and ``feats_lengths`` (B,).
        """
        feats, lengths = self._extract_feats(speech, speech_lengths)
        return {"feats": feats, "feats_lengths": lengths}

    def error_rate(self, logits: Tensor, text: Tensor) -> Optional[float]:
        """Compute the character error rate of logits; None in training.

        Args:
            logits: (B, T, V).
            text: labels (B, N).
        """
        if self.training or self.error_calculator is None:
            return None
        best = logits.argmax(-1)  # (B, T)
        rate: Optional[float] = self.error_calculator(
            best.cpu(), text.cpu(), is_ctc=True
        )
        return rate
