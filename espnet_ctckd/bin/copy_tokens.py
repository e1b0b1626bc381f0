"""Take the tokens of a model: <output_dir>/tokens.txt, token_type and bpe.model."""

import shutil
from pathlib import Path
from typing import Optional, Sequence

import yaml

from espnet_ctckd.bin import parser, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import beside, write_beside


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Copy the tokens."""
    p = parser(__doc__)
    p.add_argument("--asr_train_config", required=True, help="config.yaml of the model")
    p.add_argument("--output_dir", required=True, help="folder to write")
    args = p.parse_args(cmd)
    conf = yaml.safe_load(Path(args.asr_train_config).read_text(encoding="utf-8"))
    folder = Path(args.output_dir)
    if not isinstance(conf.get("token_list"), list):
        raise InputError(f"{args.asr_train_config} holds no token list")
    if conf.get("bpemodel"):
        with beside(folder / "bpe.model") as partial:
            shutil.copyfile(conf["bpemodel"], partial)
    with write_beside(folder / "token_type") as f:
        f.write(conf["token_type"] + "\n")
    with write_beside(folder / "tokens.txt") as f:
        f.writelines(f"{token}\n" for token in conf["token_list"])
    print(f"{len(conf['token_list'])} tokens of type {conf['token_type']}: {folder}")


if __name__ == "__main__":
    run(main)
