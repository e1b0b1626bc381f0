"""Export a trained student as a plain ESPnet model, which needs no plug-in.

Writes <output_dir>/config.yaml and model.pth, for espnet2.bin.asr_inference and the
Python class Speech2Text of any ESPnet.
"""

from typing import Optional, Sequence

from espnet_ctckd import ENCODER_NAME, FRONTEND_NAME
from espnet_ctckd.bin import parser, run
from espnet_ctckd.checkpoint import load_config
from espnet_ctckd.export import export


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Export a student."""
    p = parser(__doc__)
    p.add_argument("--asr_train_config", required=True, help="config.yaml of training")
    p.add_argument("--asr_model_file", required=True, help="checkpoint")
    p.add_argument("--output_dir", required=True, help="folder to write")
    args = p.parse_args(cmd)
    export(args.asr_train_config, args.asr_model_file, args.output_dir)
    print(f"exported: {args.output_dir}/config.yaml, {args.output_dir}/model.pth")
    conf = load_config(args.asr_train_config)
    own = [
        f"{key}: {name}"
        for key, name in (("encoder", ENCODER_NAME), ("frontend", FRONTEND_NAME))
        if conf.get(key) == name
    ]
    if own:
        print(
            f"it has {' and '.join(own)}, so it decodes where espnet_ctckd is "
            "installed: with espnet_ctckd.bin.decode, or ESPnet's commands through "
            "ctckd-python"
        )


if __name__ == "__main__":
    run(main)
