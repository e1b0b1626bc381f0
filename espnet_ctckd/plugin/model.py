"""The student: an ESPnet CTC model whose loss has a distillation term."""

import functools
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.config import FrameConfig, KDConfig
from espnet_ctckd.data.kaldi import read_prior
from espnet_ctckd.evaluation.spikes import spike_rates
from espnet_ctckd.frames import FrameMismatchError
from espnet_ctckd.losses.sequence import Hypotheses, hypotheses_loss, occupancies
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.plugin.batch import Batch, EncoderOutput, TwoViews
from espnet_ctckd.plugin.model_checks import check_model
from espnet_ctckd.posteriors import FramePosteriors, blank_padding
from espnet_ctckd.reduce import sum_over_processes

# From audio (B, S) and lengths (B,) to what a teacher says, and statistics of it.
Online = Callable[[Tensor, Tensor], Tuple[FramePosteriors, Dict[str, float]]]

# Prefixes of the parameters that the plain model has not.
OWN_PARAMETERS = ("inter_heads.", "feature_projection.")


class ESPnetCTCKDModel(ESPnetASRModel):
    """loss = (1 - lambda) CTC + lambda distillation, on an encoder with a CTC head.

    Parameters and their names are those of the plain model, but for `OWN_PARAMETERS`;
    without these, its checkpoints are loaded by ``model: espnet`` and the other way
    round. Everything but ``kd`` is an argument of `ESPnetASRModel`;
    ``ctc_weight`` is 1.

    Args:
        kd: `KDConfig`, or the mapping ``model_conf.kd`` of the configuration.

    Raises:
        InputError: the configuration cannot be distilled.

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
        if config.inter is not None and config.inter.head == "separate":
            size = self.encoder.output_size()
            self.inter_heads = torch.nn.ModuleDict(
                {
                    str(layer): torch.nn.Linear(size, self.vocab_size)
                    for layer in self.encoder.interctc_layer_idx
                }
            )
        if config.feature is not None:
            self.feature_projection = torch.nn.Linear(
                self.encoder.output_size(), config.feature.size
            )
        # Of ``kd`` and its parts, from `build_objectives`.
        self.objectives = torch.nn.ModuleDict()
        # The trainer opens it where the configuration asks for one.
        self.online: Optional[Online] = None

    def build_objectives(self) -> None:
        """Build what only a training needs, once: inference reads no priors.

        Raises:
            InputError: the priors are missing or of other tokens.
        """
        if self.objectives:
            return
        config = self.kd_config
        device = self.ctc.ctc_lo.weight.device
        for name, part in (
            ("frames", config),
            ("views", config.views),
            ("inter", config.inter),
            ("feature", config.feature),
        ):
            if part is not None:
                objective = self._objective(part).train(self.training).to(device)
                objective.epoch = self.epoch
                self.objectives[name] = objective

    def _objective(self, config: FrameConfig) -> KDObjective:
        prior = None
        if config.prior_file is not None:
            blank = self.token_list[self.blank_id]
            prior = torch.tensor(read_prior(config.prior_file, self.token_list, blank))
        return KDObjective(config, prior)

    def set_epoch(self, epoch: int, last: int) -> None:
        """Say how far the training is, for what is scheduled by epochs.

        Args:
            epoch: the current one, from 1.
            last: the last one.
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
            text: labels (B, N); where lambda is 1 it is read in evaluation only, for
                the error rate.
            text_lengths: (B,).
            teacher: the teacher's log-probabilities (B, U, K).
            teacher_lengths: (B,).
            teacher_ids: the tokens that they belong to (B, U, K); None when dense.
            teacher_states: hidden states of the teacher (B, U, D).
            nbest: tokens of its hypotheses of each utterance, end to end (B, L).
            nbest_sizes: tokens of each hypothesis (B, N), negative where there is none.
            nbest_weights: (B, N), 0 where there is none.
            **kwargs: ``utt_id`` and what else ESPnet's trainer hands on.

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
        feature = self.kd_config.feature
        alone = feature is not None and self.epoch <= feature.alone_epochs
        try:
            if self.training and alone:
                loss = self._feature_alone(batch, stats)
            else:
                loss = self._all_losses(batch, stats)
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

    def _all_losses(self, batch: Batch, stats: Dict[str, Any]) -> Tensor:
        config, views = self.kd_config, self.training and self.kd_config.views
        if views:
            batch = batch.twice()
        if isinstance(self.specaug, TwoViews):
            self.specaug.pairs = bool(views)
        seen = self._encode(batch, self._reads_all_frames)
        loss = batch.speech.new_zeros(())
        if config.uses_ctc:
            loss = loss + config.ctc_weight * self._ctc_loss(batch, seen, stats)
        elif not self.training and batch.text is not None:
            stats["cer_ctc"] = self._error_rate(seen.all_logits, batch.text)
        if batch.teacher is not None:
            loss = loss + config.weight * self._distance(batch, seen, stats)
        if config.feature is not None:
            distance = self._feature_distance(batch, seen, stats)
            loss = loss + config.feature.weight * distance
        if config.nbest is not None:
            loss = loss + config.nbest.weight * self._nbest_loss(batch, seen, stats)
        if config.inter is not None:
            weight = config.inter.weight_at(self.progress)
            loss = (1.0 - weight if config.inter.convex else 1.0) * loss
            loss = loss + weight * self._inter_loss(batch, seen, stats)
        if views:
            loss = loss + views.weight * self._views_distance(batch, seen, stats)
        return loss

    def _feature_alone(self, batch: Batch, stats: Dict[str, Any]) -> Tensor:
        """The loss of the epochs in which only hidden states are learned."""
        if isinstance(self.specaug, TwoViews):
            self.specaug.pairs = False
        seen = self._encode(batch, all_frames=False)
        loss = self._feature_distance(batch, seen, stats)
        # What the other losses train has a gradient of 0 and not none, for processes
        # that wait for each other's.
        idle = [
            p
            for m in (self.ctc, getattr(self, "inter_heads", None))
            if m
            for p in m.parameters()
        ]
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
        if config.feature is not None:
            states = batch.teacher.states if batch.teacher is not None else None
            size = 0 if states is None else states.size(-1)
            if size != config.feature.size:
                raise InputError(
                    f"the teacher's states have {size} dimensions, and "
                    f"kd.feature.size is {config.feature.size}"
                )
        if config.nbest is not None and batch.hypotheses is None:
            raise InputError(
                "the batch has no nbest, and kd.nbest learns from it: give e.g. "
                "--train_data_path_and_name_and_type <folder>/nbest,nbest,text, and "
                "the same for --valid_data_path_and_name_and_type"
            )

    def _encode(self, batch: Batch, all_frames: bool) -> EncoderOutput:
        """Run the encoder, and the output layer, once, where all frames are read."""
        states, lengths = self.encode(batch.speech, batch.speech_lengths)
        layers: List[Tuple[int, Tensor]] = []
        if isinstance(states, tuple):
            states, layers = states
        logits = self.ctc.ctc_lo(states) if all_frames else None  # (B, T, V)
        return EncoderOutput(states, lengths, layers, logits)

    @property
    def _reads_all_frames(self) -> bool:
        """Whether the logits of all frames are needed, and not of selected ones."""
        config = self.kd_config
        own_target = config.inter is not None and config.inter.target == "self"
        return (
            not self.training
            or (config.uses_ctc and self._ctc_of_logits)
            or config.nbest is not None
            or config.views is not None
            or own_target
        )

    @property
    def _ctc_of_logits(self) -> bool:
        """Whether ESPnet's CTC is a function of the plain logits.

        It drops out the output layer's input, even in evaluation.
        """
        plain = self.ctc.ctc_type in ("builtin", "builtin2")
        return plain and self.ctc.dropout_rate == 0.0

    def _ctc_loss(
        self, batch: Batch, seen: EncoderOutput, stats: Dict[str, Any]
    ) -> Tensor:
        """ESPnet's CTC loss, with that of intermediate layers where it is asked for."""
        assert batch.text is not None
        assert batch.text_lengths is not None
        text = batch.text[:, : int(batch.text_lengths.max())]
        text = text.masked_fill(text == -1, self.ignore_id)
        labels = (text, batch.text_lengths)
        if self._ctc_of_logits:
            loss = self._ctc_of(seen.all_logits, batch, seen.lengths).to(seen.states)
            rate = self._error_rate(seen.all_logits, text)
        else:
            loss, rate = self._calc_ctc_loss(seen.states, seen.lengths, *labels)
        stats["cer_ctc"] = rate
        if self.interctc_weight != 0.0 and seen.layers:
            total = loss.new_zeros(())
            for layer, states in seen.layers:
                given = self._aux_labels(layer, batch) or labels
                inner, rate = self._calc_ctc_loss(states, seen.lengths, *given)
                stats[f"loss_interctc_layer{layer}"] = inner.detach()
                stats[f"cer_interctc_layer{layer}"] = rate
                total = total + inner
            mean = total / len(seen.layers)
            loss = (1 - self.interctc_weight) * loss + self.interctc_weight * mean
        ctc = self._norm_ctc(loss.sum(), batch)
        stats["loss_ctc"] = ctc.detach()
        return ctc

    def _aux_labels(self, layer: int, batch: Batch) -> Optional[Tuple[Tensor, Tensor]]:
        """The labels (B, N) and lengths (B,) of ``aux_ctc`` for a layer, if any."""
        name = (self.aux_ctc or {}).get(str(layer))
        if name is None:
            return None
        if name not in batch.more:
            raise InputError(
                f"model_conf.aux_ctc learns {name!r} at the layer {layer}, and the "
                "batch does not have it: give it with "
                "--train_data_path_and_name_and_type, and for --valid_…"
            )
        return batch.more[name], batch.more[f"{name}_lengths"]

    def _norm_ctc(self, ctc: Tensor, batch: Batch) -> Tensor:
        """From the mean over utterances to what ``ctc_norm`` asks for."""
        if self.kd_config.ctc_norm != "token":
            return ctc
        assert batch.text_lengths is not None
        utterances = batch.text_lengths.new_tensor(batch.text_lengths.numel())
        counts = torch.stack([batch.text_lengths.sum(), utterances]).double()
        labels, everyone = sum_over_processes(counts)
        normed: Tensor = ctc * (everyone / labels).to(ctc)
        return normed

    def _distance(
        self, batch: Batch, seen: EncoderOutput, stats: Dict[str, Any]
    ) -> Tensor:
        """The distance of the last layer to the teacher."""
        teacher = batch.teacher
        assert teacher is not None
        if self.kd_config.target == "occupancies":
            assert batch.text is not None
            assert batch.text_lengths is not None
            teacher = occupancies(teacher, batch.text, batch.text_lengths)
        distance: Tensor
        distance, kd_stats = self.objectives["frames"](
            seen.states if seen.logits is None else seen.logits,
            seen.lengths,
            teacher,
            labels=batch.text_lengths,
            head=self.ctc.ctc_lo if seen.logits is None else None,
        )
        stats.update(kd_stats, loss_kd=distance.detach())
        if not self.training:
            assert batch.teacher is not None
            stats.update(self._spikes(seen, batch.teacher))
        return distance

    def _spikes(
        self, seen: EncoderOutput, teacher: FramePosteriors
    ) -> Dict[str, Tensor]:
        """How the student's spikes differ from the teacher's."""
        theirs = blank_padding(teacher).argmax().tolist()  # (B, U)
        ours = seen.all_logits.argmax(-1).tolist()  # (B, T)
        ends = seen.lengths.tolist()
        said = [(a, b[:end]) for a, b, end in zip(theirs, ours, ends)]
        rates = spike_rates(said, self.blank_id, float(self.kd_config.ratio))
        return {name: seen.states.new_tensor(rate) for name, rate in rates.items()}

    def _feature_distance(
        self, batch: Batch, seen: EncoderOutput, stats: Dict[str, Any]
    ) -> Tensor:
        """The distance of the last layer's states to the teacher's."""
        assert batch.teacher is not None
        distance: Tensor
        distance, _ = self.objectives["feature"](
            seen.states,
            seen.lengths,
            batch.teacher,
            labels=batch.text_lengths,
            head=self.feature_projection,
        )
        stats["loss_feature"] = distance.detach()
        return distance

    def _nbest_loss(
        self, batch: Batch, seen: EncoderOutput, stats: Dict[str, Any]
    ) -> Tensor:
        """The weighted CTC losses of the teacher's hypotheses."""
        assert batch.hypotheses is not None
        with torch.autocast(seen.states.device.type, enabled=False):
            log_probs = seen.all_logits.float().log_softmax(-1)  # (B, T, V)
            loss = hypotheses_loss(log_probs, seen.lengths, batch.hypotheses, 0)
        stats["loss_nbest"] = loss.detach()
        return loss

    def _inter_loss(
        self, batch: Batch, seen: EncoderOutput, stats: Dict[str, Any]
    ) -> Tensor:
        """Losses of the intermediate layers, combined."""
        config, teacher = self.kd_config.inter, batch.teacher
        if config.target == "self":
            own = seen.all_logits.detach().float().log_softmax(-1)  # (B, T, V)
            teacher = FramePosteriors(own, seen.lengths, self.blank_id)
        losses = []
        for layer, states in seen.layers:  # (B, T, dim)
            to_logits = self._inter_head(layer)
            head: Optional[Callable[[Tensor], Tensor]] = to_logits
            loss = states.new_zeros(())
            if config.ctc_weight > 0:
                states, head = to_logits(states), None  # (B, T, V)
                ctc = self._norm_ctc(
                    self._ctc_of(states, batch, seen.lengths).sum(), batch
                )
                stats[f"loss_ctc_layer{layer}"] = ctc.detach()
                loss = loss + config.ctc_weight * ctc
            if config.kd_weight > 0:
                assert teacher is not None
                distance, _ = self.objectives["inter"](
                    states, seen.lengths, teacher, labels=batch.text_lengths, head=head
                )
                stats[f"loss_kd_layer{layer}"] = distance.detach()
                loss = loss + config.kd_weight * distance
            losses.append(loss)
        joined = torch.stack(losses)
        together: Tensor = joined.mean() if config.combine == "mean" else joined.sum()
        return together

    def _inter_head(self, layer: int) -> Callable[[Tensor], Tensor]:
        """What gives the logits of an intermediate layer's states."""
        if hasattr(self.encoder, "lower_logits"):
            return functools.partial(self.encoder.lower_logits, ctc_lo=self.ctc.ctc_lo)
        shared = self.kd_config.inter.head == "shared"
        head: torch.nn.Module = (
            self.ctc.ctc_lo if shared else self.inter_heads[str(layer)]
        )
        return head

    def _ctc_of(self, logits: Tensor, batch: Batch, lengths: Tensor) -> Tensor:
        """ESPnet's CTC loss of logits (B, T, V) of the batch."""
        assert batch.text is not None
        assert batch.text_lengths is not None
        labels = torch.cat([t[:n] for t, n in zip(batch.text, batch.text_lengths)])
        loss: Tensor = self.ctc.loss_fn(
            logits.transpose(0, 1), labels, lengths, batch.text_lengths
        )
        return loss

    def _views_distance(
        self, batch: Batch, seen: EncoderOutput, stats: Dict[str, Any]
    ) -> Tensor:
        """The mean of the distances of each view to the other."""
        views = seen.all_logits.chunk(2)  # (B, T, V) each
        lengths = seen.lengths.chunk(2)[0]
        labels = None if batch.text_lengths is None else batch.text_lengths.chunk(2)[0]
        total = views[0].new_zeros(())
        for student, other in (views, views[::-1]):
            said = other.detach().float().log_softmax(-1)  # (B, T, V)
            teacher = FramePosteriors(said, lengths, self.blank_id)
            distance, _ = self.objectives["views"](student, lengths, teacher, labels)
            total = total + 0.5 * distance
        stats["loss_views"] = total.detach()
        return total

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

    def _error_rate(self, logits: Tensor, text: Tensor) -> Optional[float]:
        """The character error rate of logits (B, T, V), in evaluation."""
        if self.training or self.error_calculator is None:
            return None
        best = logits.argmax(-1)  # (B, T)
        rate: Optional[float] = self.error_calculator(
            best.cpu(), text.cpu(), is_ctc=True
        )
        return rate
