"""Measure time and memory of distillation on this machine.

train: a training step of a Conformer of 18 M parameters on utterances of 20 s,
distilled from cached posteriors or from an online teacher of the same size, is compared
with the step of the same student with plain CTC. objective: the distance only, forward
and backward, with 5000 tokens and a fifth of the frames selected, is compared with
straightforward PyTorch code, including the peak of the allocated memory. All contenders
take turns in every round; ratios are medians over the rounds.
"""

import argparse
import logging
import statistics
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from espnet2.utils.yaml_no_alias_safe_dump import yaml_no_alias_safe_dump
from torch import Tensor

from espnet_ctckd.bin.cli import device
from espnet_ctckd.config import FrameConfig, TeacherConfig
from espnet_ctckd.evaluation.timing import Contenders, quartiles, take_turns
from espnet_ctckd.objective import KDObjective
from espnet_ctckd.plugin.task import CTCKDTask
from espnet_ctckd.posteriors import FramePosteriors
from espnet_ctckd.teachers.online import OnlineTeacher, open_online

RATE, SECONDS, FRAMES = 16000, 20, 499  # frames of 40 ms, as the encoder makes them
TOP_K = 16
STEP_TOKENS = (500, 5000)
STUDENT = {
    "frontend_conf": {"n_fft": 512, "hop_length": 160, "n_mels": 80},
    "encoder": "conformer",
    "encoder_conf": {
        "output_size": 256,
        "attention_heads": 4,
        "linear_units": 1024,
        "num_blocks": 11,
        "cnn_module_kernel": 31,
        "macaron_style": True,
        "rel_pos_type": "latest",
        "pos_enc_layer_type": "rel_pos",
        "selfattention_layer_type": "rel_selfattn",
        "activation_type": "swish",
        "use_cnn_module": True,
    },
}


def bench(args: argparse.Namespace) -> None:
    """Measure, and print tables."""
    args.num_threads = args.num_threads or torch.get_num_threads()
    logging.getLogger().setLevel(logging.ERROR)  # ESPnet logs every model
    torch.manual_seed(args.seed)
    place = device(args)
    print(
        f"{args.utterances} utterances of {SECONDS} s, {args.rounds} rounds, {place}, "
        f"{args.num_threads} threads, torch {torch.__version__}"
    )
    with torch.device(place):
        if args.what == "objective":
            bench_objective(args)
        else:
            for tokens in STEP_TOKENS:
                bench_step(args, tokens)


def bench_objective(args: argparse.Namespace) -> None:
    """Compare the objective with `F.kl_div`."""
    tokens, tau = 5000, 2.0
    teacher = make_teacher(args.utterances, tokens, spikes=FRAMES // 5)
    logits = torch.randn(args.utterances, FRAMES, tokens, requires_grad=True)
    objective = make_objective("blank_elimination", tau)
    top = keep_top(teacher)

    def ours(given: FramePosteriors) -> Callable[[], object]:
        return lambda: backward(objective(logits, given.lengths, given)[0], logits)

    def every_frame() -> None:
        mask = teacher.log_probs.argmax(-1) != teacher.blank  # (B, T)
        log_p = (teacher.log_probs / tau).log_softmax(-1)
        log_q = (logits / tau).log_softmax(-1)
        kl = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
        backward((kl * mask).sum() * tau**2 / len(logits), logits)

    def masked_select() -> None:
        mask = teacher.log_probs.argmax(-1) != teacher.blank  # (B, T)
        log_p = (teacher.log_probs / tau).log_softmax(-1)
        log_q = (logits / tau).log_softmax(-1)
        full = mask.unsqueeze(-1).expand_as(log_q)
        log_p, log_q = log_p.masked_select(full), log_q.masked_select(full)
        kl = F.kl_div(log_q, log_p, log_target=True, reduction="sum")
        backward(kl * tau**2 / len(logits), logits)

    contenders: Contenders = {
        "F.kl_div on all frames": every_frame,
        "masked select, then F.kl_div": masked_select,
        "espnet_ctckd, dense teacher": ours(teacher),
        f"espnet_ctckd, top-{TOP_K} teacher": ours(top),
    }
    times = take_turns(contenders, args.rounds)
    peaks = {name: peak_memory(contender) for name, contender in contenders.items()}
    first = "F.kl_div on all frames"
    print(f"\nobjective, {tokens} tokens, 20 % of the frames, tau {tau:g}")
    print(
        f"{'':34}{'ms':>9}{'times faster':>14}{'quartiles':>16}{'MiB':>8}"
        f"{'of its peak':>13}"
    )
    for name in contenders:
        low, middle, high = quartiles(
            [a / b for a, b in zip(times[first], times[name])]
        )
        print(
            f"{name:34}{1000 * statistics.median(times[name]):9.1f}{middle:14.2f}"
            f"{f'{low:.2f} - {high:.2f}':>16}"
            f"{peaks[name] / 2**20:8.0f}{peaks[name] / peaks[first]:13.2f}"
        )


def bench_step(args: argparse.Namespace, tokens: int) -> None:
    """Compare a training step with a step of plain CTC."""
    labels = 80 if tokens < 1000 else 60
    teacher = make_teacher(args.utterances, tokens, spikes=labels)
    if tokens >= 1000:
        teacher = keep_top(teacher)
    kind = "dense" if teacher.ids is None else f"top-{TOP_K}"
    systems = {
        "plain CTC": None,
        "lambda 0.5, all": (0.5, "all", {}),
        "lambda 0.5, symmetric n = 1": (0.5, "symmetric", {"n": 1}),
        "lambda 1, all": (1.0, "all", {}),
        "lambda 1, symmetric n = 1": (1.0, "symmetric", {"n": 1}),
    }
    contenders: Dict[str, Callable[[], object]] = {}
    for name, system in systems.items():
        kd: Optional[Dict[str, Any]] = None
        if system is not None:
            weight, selector, conf = system
            kd = {
                "weight": weight,
                "selector": selector,
                "selector_conf": conf,
                "loss": "kl",
                "loss_conf": {"temperature": 1.0},
                "reduction": "utt_sum",
            }
        contenders[name] = make_step(args, tokens, labels, teacher, kd)
        if kd is not None and name == "lambda 0.5, all":
            for dtype in args.online:
                asks = {**kd, "teacher": {"mode": "online", "dtype": dtype}}
                contenders[f"{name}, online in {dtype}"] = make_step(
                    args, tokens, labels, None, asks
                )
    times = take_turns(contenders, args.rounds)
    print(f"\ntraining step, {tokens} tokens, {kind} teacher, {labels} labels")
    print(f"{'':34}{'ms':>9}{'of plain CTC':>14}{'quartiles':>16}")
    for name in contenders:
        shares = [a / b for a, b in zip(times[name], times["plain CTC"])]
        low, middle, high = quartiles(shares)
        print(
            f"{name:34}{1000 * statistics.median(times[name]):9.0f}{middle:14.3f}"
            f"{f'{low:.3f} - {high:.3f}':>16}"
        )


def make_teacher(utterances: int, tokens: int, spikes: int) -> FramePosteriors:
    """Make posteriors of a dense teacher with evenly spread spikes."""
    scores = torch.randn(utterances, FRAMES, tokens)
    place = torch.linspace(2, FRAMES - 3, spikes).long()  # (spikes,)
    scores[..., 0] += 14.0
    for row in scores:
        row[place, torch.randint(1, tokens, (spikes,))] += 18.0
    lengths = torch.full((utterances,), FRAMES)
    return FramePosteriors(scores.log_softmax(-1), lengths, blank=0)


def keep_top(teacher: FramePosteriors) -> FramePosteriors:
    """Reduce dense posteriors to the top K tokens, including the blank."""
    wanted = teacher.log_probs.clone()
    wanted[..., teacher.blank] = 1.0
    ids = wanted.topk(TOP_K).indices  # (B, T, K)
    top = teacher.log_probs.gather(-1, ids)
    return FramePosteriors(top, teacher.lengths, teacher.blank, ids)


def make_objective(selector: str, temperature: float) -> KDObjective:
    """Make the paper's objective: KL divergence on selected frames."""
    return KDObjective(
        FrameConfig(
            selector=selector,
            loss="kl",
            loss_conf={"temperature": temperature},
            reduction="utt_sum",
        )
    )


def make_step(
    args: argparse.Namespace,
    tokens: int,
    labels: int,
    teacher: Optional[FramePosteriors],
    kd: Optional[Dict[str, Any]],
) -> Callable[[], object]:
    """Return a training step of a student: forward, backward and update."""
    model, _ = make_model(args, tokens, kd)
    if kd is not None and teacher is None:
        model.online = open_same_size(args, tokens, kd["teacher"]["dtype"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    batch: Dict[str, Tensor] = {
        "speech": 0.1 * torch.randn(args.utterances, RATE * SECONDS),
        "speech_lengths": torch.full((args.utterances,), RATE * SECONDS),
    }
    if kd is None or kd["weight"] != 1.0:
        batch["text"] = torch.randint(1, tokens - 1, (args.utterances, labels))
        batch["text_lengths"] = torch.full((args.utterances,), labels)
    if teacher is not None and kd is not None:
        batch.update(teacher=teacher.log_probs, teacher_lengths=teacher.lengths)
        if teacher.ids is not None:
            batch["teacher_ids"] = teacher.ids

    def step() -> None:
        optimizer.zero_grad()
        loss, _, _ = model(**batch)
        loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return step


def make_model(
    args: argparse.Namespace, tokens: int, kd: Optional[Dict[str, Any]]
) -> Tuple[Any, argparse.Namespace]:
    """Build a student with random weights; return it with its arguments."""
    conf = CTCKDTask.get_parser().parse_args(["--token_type", "char"])
    conf.token_list = ["<blank>", *(f"t{i}" for i in range(tokens - 2)), "<sos/eos>"]
    for key, value in STUDENT.items():
        setattr(conf, key, value)
    conf.model = "espnet" if kd is None else "ctckd"
    conf.model_conf = {"ctc_weight": 1.0, **({} if kd is None else {"kd": kd})}
    torch.manual_seed(args.seed)
    return CTCKDTask.build_model(conf), conf


def open_same_size(args: argparse.Namespace, tokens: int, dtype: str) -> OnlineTeacher:
    """Write a teacher of the student's size, and open it as an online teacher."""
    model, conf = make_model(args, tokens, None)
    with tempfile.TemporaryDirectory() as folder:
        text = yaml_no_alias_safe_dump(vars(conf), indent=4, sort_keys=False)
        Path(folder, "config.yaml").write_text(text)
        torch.save(model.state_dict(), Path(folder, "model.pth"))
        config = TeacherConfig(mode="online", teacher=folder, dtype=dtype)
        place = str(torch.get_default_device())
        return open_online(config, conf.token_list, blank=0, device=place)


def backward(loss: Tensor, x: Tensor) -> None:
    """Compute the gradient, and discard it."""
    torch.autograd.grad(loss, x)


def peak_memory(contender: Callable[[], object]) -> int:
    """Return the peak of a contender's allocated memory in bytes, from PyTorch."""
    if torch.get_default_device().type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        contender()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU],
        profile_memory=True,
        acc_events=True,
    ) as profiler:
        contender()
    changes: List[Tuple[int, int]] = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most
