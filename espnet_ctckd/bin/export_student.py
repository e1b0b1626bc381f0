"""Export a trained student as a plain ESPnet model.

Writes <output_dir>/config.yaml and model.pth, for espnet2.bin.asr_inference and the
Python class Speech2Text of any ESPnet.
"""

from typing import Optional, Sequence

from espnet_ctckd.bin.cli import parser, run


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Export a student."""
    p = parser(__doc__)
    p.add_argument("--asr_train_config", required=True, help="config.yaml of training")
    p.add_argument("--asr_model_file", required=True, help="checkpoint")
    p.add_argument("--output_dir", required=True, help="folder to write")
    args = p.parse_args(cmd)
    from espnet_ctckd.export.plain import export

    wants = export(args.asr_train_config, args.asr_model_file, args.output_dir)
    print(f"exported: {args.output_dir}/config.yaml, {args.output_dir}/model.pth")
    if wants:
        print(wants)


if __name__ == "__main__":
    run(main)
