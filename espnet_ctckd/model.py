"""The student: an ESPnet CTC model whose loss has a distillation term."""

import contextlib
from typing import Any, Dict, Iterator, List, Optional, Tuple

import torch
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.torch_utils.device_funcs import force_gatherable
from torch import Tensor

from espnet_ctckd.choices import InputError
from espnet_ctckd.config import FrameConfig, KDConfig
from espnet_ctckd.data import read_prior
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.reduce import sum_over_processes

# Prefix of the parameters that the plain model has not.
INTER_HEADS = "inter_heads."


class ESPnetCTCKDModel(ESPnetASRModel):
    """loss = (1 - lambda) CTC + lambda distillation, on an encoder with a CTC head.

    Parameters and their names are those of the plain model, but for separate heads of
    intermediate layers; without these, its checkpoints are loaded by ``model: espnet``
    and the other way round. Everything but ``kd`` is an argument of `ESPnetASRModel`;
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
        _check_model(config, kwargs)
        super().__init__(*args, **{"ctc_weight": 1.0, **kwargs})
        self.kd_config = config
        self.progress = 0.0
        self.kd = self._objective(config)
        if config.inter is not None:
            self.kd_inter = self._objective(config.inter)
            if config.inter.head == "separate":
                size = self.encoder.output_size()
                self.inter_heads = torch.nn.ModuleDict(
                    {
                        str(layer): torch.nn.Linear(size, self.vocab_size)
                        for layer in self.encoder.interctc_layer_idx
                    }
                )
        self._encoded: Optional[Tuple[Any, Tensor]] = None

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
        self.progress = (epoch - 1) / max(last - 1, 1)
        self.kd.epoch = epoch
        if self.kd_config.inter is not None:
            self.kd_inter.epoch = epoch

    def encode(self, speech: Tensor, speech_lengths: Tensor) -> Tuple[Any, Tensor]:
        """Encode as the plain model does, and keep the result for `forward`.

        Args:
            speech: (B, S) or features (B, frames, dim).
            speech_lengths: (B,).

        Returns:
            Encoder output (B, T, dim), in a pair with the outputs of intermediate
            layers where the encoder gives them, and lengths (B,).
        """
        self._encoded = super().encode(speech, speech_lengths)
        return self._encoded

    def forward(
        self,
        speech: Tensor,
        speech_lengths: Tensor,
        text: Optional[Tensor] = None,
        text_lengths: Optional[Tensor] = None,
        teacher: Optional[Tensor] = None,
        teacher_lengths: Optional[Tensor] = None,
        teacher_ids: Optional[Tensor] = None,
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
            **kwargs: ``utt_id`` and what else ESPnet's trainer hands on.

        Returns:
            The loss (1,), statistics and the number of utterances (1,).

        Raises:
            InputError: the batch lacks the labels or the teacher.
        """
        config = self.kd_config
        utterances = speech.size(0)
        stats: Dict[str, Any] = {}
        loss: Any = 0.0
        projected: List[Tensor] = []
        if config.needs_labels:
            if text is None or text_lengths is None:
                raise InputError(
                    f"the batch has no text, and kd.weight {config.weight} keeps the "
                    "CTC loss: give the transcripts, or set kd.weight: 1"
                )
            with _first_output(self.ctc.ctc_lo) as projected:
                ctc, stats, _ = super().forward(
                    speech, speech_lengths, text, text_lengths, **kwargs
                )
            ctc = self._norm_ctc(ctc.sum(), text_lengths)
            stats["loss_ctc"] = ctc.detach()
            loss = (1.0 - config.weight) * ctc
        else:
            self.encode(speech, speech_lengths)
        assert self._encoded is not None
        (encoder_out, lengths), self._encoded = self._encoded, None
        layers: List[Tuple[int, Tensor]] = []
        if isinstance(encoder_out, tuple):
            encoder_out, layers = encoder_out
        if not config.needs_labels and not self.training and text is not None:
            stats["cer_ctc"] = self._error_rate(encoder_out, text)
        # ESPnet drops out the input of the CTC loss, even in evaluation.
        shared = bool(projected) and self.ctc.dropout_rate == 0.0
        posteriors = None
        if teacher is not None and teacher_lengths is not None:
            posteriors = FramePosteriors(
                teacher, teacher_lengths, self.blank_id, teacher_ids
            )
        elif config.needs_teacher:
            raise InputError(
                "the batch has no teacher: give the cache, e.g. "
                "--train_data_path_and_name_and_type <cache>/teacher.scp,teacher,"
                "kaldi_ark, and the same for --valid_data_path_and_name_and_type"
            )
        try:
            if posteriors is not None:
                distance, kd_stats = self.kd(
                    projected[0] if shared else encoder_out,
                    lengths,
                    posteriors,
                    labels=text_lengths,
                    head=None if shared else self.ctc.ctc_lo,
                )
                loss = loss + config.weight * distance
                stats.update(kd_stats, loss_kd=distance.detach())
            if config.inter is not None:
                logits = projected[0] if shared else self.ctc.ctc_lo(encoder_out)
                inter = self._inter_loss(
                    layers, lengths, posteriors, logits, text, text_lengths, stats
                )
                weight = config.inter.weight_at(self.progress)
                loss = (1.0 - weight if config.inter.convex else 1.0) * loss
                loss = loss + weight * inter
        except InputError as error:
            named = ", ".join(kwargs.get("utt_id", ()))
            raise InputError(f"{error}. The batch: {named}") from None
        stats["loss"] = loss.detach()
        gathered: Tuple[Tensor, Dict[str, Tensor], Tensor] = force_gatherable(
            (loss, stats, utterances), loss.device
        )
        return gathered

    def _norm_ctc(self, ctc: Tensor, text_lengths: Tensor) -> Tensor:
        """From the mean over utterances to what ``ctc_norm`` asks for."""
        if self.kd_config.ctc_norm != "token":
            return ctc
        utterances = text_lengths.new_tensor(text_lengths.numel())
        counts = torch.stack([text_lengths.sum(), utterances]).double()
        labels, everyone = sum_over_processes(counts)
        normed: Tensor = ctc * (everyone / labels).to(ctc)
        return normed

    def _inter_loss(
        self,
        layers: List[Tuple[int, Tensor]],
        lengths: Tensor,
        teacher: Optional[FramePosteriors],
        logits: Tensor,
        text: Optional[Tensor],
        text_lengths: Optional[Tensor],
        stats: Dict[str, Any],
    ) -> Tensor:
        """Losses of the intermediate layers, combined."""
        config = self.kd_config.inter
        if config.target == "self":
            own = logits.detach().float().log_softmax(-1)  # (B, T, V)
            teacher = FramePosteriors(own, lengths, self.blank_id)
        losses = []
        for layer, states in layers:  # (B, T, dim)
            shared = config.head == "shared"
            head = self.ctc.ctc_lo if shared else self.inter_heads[str(layer)]
            loss = states.new_zeros(())
            if config.ctc_weight > 0:
                assert text is not None
                assert text_lengths is not None
                labels = torch.cat([t[:n] for t, n in zip(text, text_lengths)])
                of_head = head(states)  # (B, T, V)
                ctc = self.ctc.loss_fn(
                    of_head.transpose(0, 1), labels, lengths, text_lengths
                )
                ctc = self._norm_ctc(ctc.sum(), text_lengths)
                stats[f"loss_ctc_layer{layer}"] = ctc.detach()
                loss = loss + config.ctc_weight * ctc
                states, head = of_head, None
            if config.kd_weight > 0:
                assert teacher is not None
                distance, _ = self.kd_inter(
                    states, lengths, teacher, labels=text_lengths, head=head
                )
                stats[f"loss_kd_layer{layer}"] = distance.detach()
                loss = loss + config.kd_weight * distance
            losses.append(loss)
        joined = torch.stack(losses)
        together: Tensor = joined.mean() if config.combine == "mean" else joined.sum()
        return together

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

    def _error_rate(self, encoder_out: Tensor, text: Tensor) -> Optional[float]:
        if self.error_calculator is None:
            return None
        best = self.ctc.argmax(encoder_out)  # (B, T)
        rate: Optional[float] = self.error_calculator(
            best.cpu(), text.cpu(), is_ctc=True
        )
        return rate


@contextlib.contextmanager
def _first_output(module: torch.nn.Module) -> Iterator[List[Tensor]]:
    """What a module gives when it is first called inside the context."""
    found: List[Tensor] = []

    def keep(_module: object, _inputs: object, output: Tensor) -> None:
        if not found:
            found.append(output)

    hook = module.register_forward_hook(keep)
    try:
        yield found
    finally:
        hook.remove()


def _check_model(config: KDConfig, kwargs: Dict[str, Any]) -> None:
    """Refuse what cannot be distilled, by the key of the YAML that says it."""
    specaug = kwargs.get("specaug")
    if specaug is not None and getattr(specaug, "apply_time_warp", False):
        raise InputError(
            "specaug_conf.apply_time_warp is true (which is its default): it moves "
            "frames under the teacher's targets. Set specaug_conf.apply_time_warp: "
            "false"
        )
    ctc_weight = kwargs.get("ctc_weight", 1.0)
    if ctc_weight != 1.0:
        raise InputError(
            f"model_conf.ctc_weight is {ctc_weight}, but the student is a CTC model "
            "without a decoder: set model_conf.ctc_weight: 1.0 or remove the key"
        )
    if kwargs.get("joint_network") is not None:
        raise InputError(
            "decoder is 'transducer', but the student is a CTC model without a "
            "decoder: remove the key decoder"
        )
    if config.inter is not None:
        _check_inter(kwargs)
    if kwargs.get("interctc_weight", 0.0) > 0 and not config.needs_labels:
        raise InputError(
            f"model_conf.interctc_weight is {kwargs['interctc_weight']}, which needs "
            "labels, but kd.weight 1 trains without them: set interctc_weight: 0, or "
            "kd.weight below 1"
        )


def _check_inter(kwargs: Dict[str, Any]) -> None:
    """Refuse an encoder or a head that has no intermediate losses of ours."""
    if not getattr(kwargs.get("encoder"), "interctc_layer_idx", None):
        raise InputError(
            "kd.inter is given, but the encoder gives no intermediate outputs: set "
            "encoder_conf.interctc_layer_idx, e.g. [4, 8], on a Conformer, "
            "E-Branchformer or Transformer"
        )
    if kwargs.get("interctc_weight", 0.0) > 0:
        raise InputError(
            f"model_conf.interctc_weight is {kwargs['interctc_weight']} beside "
            "kd.inter, which has a CTC loss of its own (kd.inter.ctc_weight): set "
            "interctc_weight: 0"
        )
    kind = getattr(kwargs.get("ctc"), "ctc_type", "builtin")
    if kind not in ("builtin", "builtin2"):
        raise InputError(f"ctc_conf.ctc_type is {kind!r}; kd.inter needs 'builtin'")
