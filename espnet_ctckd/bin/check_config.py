"""Build the model of a training configuration, to find errors before data preparation.

Prints what the training reads, one item per line: `text=true teacher=true online=false
states=false nbest=0 target=posteriors ratio=1 shift=640 shortest=1360 frontend=<hash>
normalize=default` (shift: frame shift in samples; shortest: samples of the first frame;
normalize: `given` if the configuration or a flag sets it), and the dev-set loss for
model selection in label-free training. Flags of asr_train may follow, the same as for
the training.
"""

import contextlib
import hashlib
import sys
from typing import Dict, Optional, Sequence

import yaml

from espnet_ctckd import MODEL_NAME
from espnet_ctckd.bin.cli import parser, run

# Placeholder tokens; the recipe makes the token list later.
_TOKENS = ["<unk>", "<sos/eos>"]


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Check a configuration."""
    p = parser(__doc__)
    p.add_argument("--config", required=True, help="training configuration (YAML)")
    ours, theirs = p.parse_known_args(cmd)
    from espnet_ctckd.models.espnet import measure_frame_shift, shortest_input
    from espnet_ctckd.plugin.task import CTCKDTask, read_kd_config

    with contextlib.redirect_stdout(sys.stderr):
        args = CTCKDTask.get_parser().parse_args(["--config", ours.config, *theirs])
        blank = (args.model_conf or {}).get("sym_blank", "<blank>")
        args.token_list = [blank, *_TOKENS]
        args.normalize = None
        reads: Dict[str, object] = {"text": True, "teacher": False, "online": False}
        reads.update(states=False, nbest=0, target=None, ratio=1)
        loss = "loss_kd"
        if args.model == MODEL_NAME:
            kd = read_kd_config(args)
            reads = {
                "text": kd.needs_labels,
                "teacher": kd.reads_cache,
                "online": kd.online,
                "states": kd.feature is not None,
                "nbest": kd.nbest.hypotheses if kd.nbest else 0,
                "target": kd.target,
                "ratio": kd.ratio,
            }
            if kd.weight == 0:
                loss = "loss_nbest" if kd.nbest else "loss"
        model = CTCKDTask.build_model(args).eval()
        shift = measure_frame_shift(model) if args.frontend else 0
        shortest = shortest_input(model) if args.frontend else 0
    frontend = yaml.safe_dump([args.frontend, args.frontend_conf, args.input_size])
    for name, value in reads.items():
        print(f"{name}={str(value).lower()}")
    print(f"loss={loss}")
    print(f"shift={shift}")
    print(f"shortest={shortest}")
    with open(ours.config, encoding="utf-8") as f:
        given = "normalize" in (yaml.safe_load(f) or {})
    given = given or any(flag.partition("=")[0] == "--normalize" for flag in theirs)
    print(f"frontend={hashlib.sha256(frontend.encode()).hexdigest()[:8]}")
    print(f"normalize={'given' if given else 'default'}")


if __name__ == "__main__":
    run(main)
