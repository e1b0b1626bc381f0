"""What the tests of the student share: models, batches, and what a teacher says."""

import torch

from espnet_ctckd.plugin.task import CTCKDTask

TOKENS = ["<blank>", "<unk>", "<space>", "A", "B", "C", "<sos/eos>"]

KD = {
    "weight": 0.5,
    "selector": "symmetric",
    "selector_conf": {"n": 1},
    "loss": "kl",
    "loss_conf": {"temperature": 1.0},
    "reduction": "utt_sum",
}


ENCODERS = {
    "conformer": {"cnn_module_kernel": 7},
    "e_branchformer": {"cgmlp_linear_units": 32, "cgmlp_conv_kernel": 7},
    "transformer": {},
}
INTER = {
    "weight": 0.7,
    "ctc_weight": 1.0,
    "kd_weight": 0.25,
    "target": "teacher",
    "head": "separate",
    "selector": "all",
    "loss": "l2",
    "reduction": "utt_sum",
}


def build(
    model="ctckd",
    specaug=False,
    encoder="conformer",
    layers=(),
    tokens=TOKENS,
    **model_conf,
):
    parser = CTCKDTask.get_parser()
    args = parser.parse_args(["--token_type", "char", "--model", model])
    args.token_list = tokens
    args.frontend_conf = {"n_fft": 256, "hop_length": 160, "n_mels": 20}
    args.encoder = encoder
    args.encoder_conf = {
        "output_size": 16,
        "attention_heads": 2,
        "linear_units": 32,
        "num_blocks": 2 + min(len(layers), 2),
        "dropout_rate": 0.0,
        "positional_dropout_rate": 0.0,
        "interctc_layer_idx": list(layers),
        **ENCODERS[encoder],
    }
    if specaug:
        args.specaug, args.specaug_conf = "specaug", specaug
    args.model_conf = {"ctc_weight": 1.0, **model_conf}
    torch.manual_seed(0)
    return CTCKDTask.build_model(args)


def make_batch():
    generator = torch.Generator().manual_seed(1)
    return {
        "speech": torch.randn(3, 16000, generator=generator),
        "speech_lengths": torch.tensor([16000, 12000, 9000]),
        "text": torch.tensor([[3, 4, 5, 3], [4, 4, -1, -1], [5, 2, 3, -1]]),
        "text_lengths": torch.tensor([4, 2, 3]),
    }


def make_teacher():
    generator = torch.Generator().manual_seed(2)
    # 16000 samples at a hop of 160: 101 feature frames, 24 after subsampling.
    return {
        "teacher": torch.randn(3, 24, 7, generator=generator).log_softmax(-1),
        "teacher_lengths": torch.tensor([24, 19, 15]),
    }


def gradients(model, **inputs):
    model.zero_grad()
    loss, stats, weight = model(**inputs)
    loss.sum().backward()
    found = {
        name: None if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }
    return loss, stats, weight, found
