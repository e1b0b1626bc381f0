"""Fetch an ESPnet model from a folder, a packed archive, or a model zoo.

Writes <output_dir>/config.yaml and model.pth; file names in the configuration become
absolute.
"""

from typing import Optional, Sequence

from espnet_ctckd.bin.cli import parser, run


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Fetch a model."""
    p = parser(__doc__)
    p.add_argument("--model", required=True, help="folder, archive or tag")
    p.add_argument("--output_dir", required=True, help="folder to write")
    args = p.parse_args(cmd)
    from espnet_ctckd.export.plain import export
    from espnet_ctckd.models.zoo import find_model

    config, weights = find_model(args.model)
    export(config, weights, args.output_dir)
    print(f"{weights} -> {args.output_dir}")


if __name__ == "__main__":
    run(main)
