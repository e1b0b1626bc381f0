"""Take the tokens of a teacher: <output_dir>/tokens.txt, token_type and bpe.model.

They are in the order and under the names that an ESPnet student needs: the blank first,
a space as <space>, and no special tokens but <unk> and <sos/eos>.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import yaml
from espnet2.tasks.asr import ASRTask

from espnet_ctckd.align import plain_name
from espnet_ctckd.bin import parser, run
from espnet_ctckd.checkpoint import load_config
from espnet_ctckd.choices import InputError
from espnet_ctckd.data import beside, write_beside
from espnet_ctckd.espnet_model import task_of
from espnet_ctckd.teachers import TEACHER_CHOICES, Teacher, open_teacher
from espnet_ctckd.teachers.espnet import spoken_tokens


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Copy the tokens."""
    p = parser(__doc__)
    add_teacher(p)
    p.add_argument("--output_dir", required=True, help="folder to write")
    args = p.parse_args(cmd)
    folder = Path(args.output_dir)
    if args.teacher_config:
        tokens, kind = _of_espnet(args.teacher_config, folder)
    else:
        tokens = student_tokens(teacher_of(args, "cpu"))
        kind = token_type(tokens)
    with write_beside(folder / "token_type") as f:
        f.write(kind + "\n")
    with write_beside(folder / "tokens.txt") as f:
        f.writelines(f"{token}\n" for token in tokens)
    print(f"{len(tokens)} tokens of type {kind}: {folder}")


def _of_espnet(config: str, folder: Path) -> Tuple[List[str], str]:
    conf = load_config(config)
    if not isinstance(conf.get("token_list"), list):
        raise InputError(f"{config} holds no token list")
    if conf.get("bpemodel"):
        with beside(folder / "bpe.model") as partial:
            shutil.copyfile(conf["bpemodel"], partial)
    tokens = conf["token_list"]
    if task_of(conf) is not ASRTask:
        said = [tokens[i] for i in spoken_tokens(tokens, tokens.index("<blank>"))]
        tokens = ["<blank>", "<unk>"]
        tokens += [t for t in said if t not in tokens] + ["<sos/eos>"]
    return tokens, conf["token_type"]


def student_tokens(teacher: Teacher) -> List[str]:
    """The token list of a student that says all that the teacher says.

    Args:
        teacher: of any kind.

    Returns:
        Blank, unknown, the teacher's own tokens, and the end.
    """
    names = [
        plain_name(token)
        for index, token in enumerate(teacher.token_list)
        if index != teacher.blank
    ]
    own = [n for n in names if n == "<space>" or not (n[:1] == "<" and n[-1:] == ">")]
    return ["<blank>", "<unk>", *dict.fromkeys(own), "<sos/eos>"]


def token_type(tokens: Sequence[str]) -> str:
    """``char`` where each token but the special ones is a character, else ``word``."""
    own = [token for token in tokens if not (token[0] == "<" and token[-1] == ">")]
    return "char" if all(len(token) == 1 for token in own) else "word"


def add_teacher(p: argparse.ArgumentParser) -> None:
    """Add the flags that say which teacher."""
    p.add_argument(
        "--teacher_type", default="espnet", help=f"one of {', '.join(TEACHER_CHOICES)}"
    )
    p.add_argument(
        "--teacher",
        help="folder or tag of an ESPnet model; id or folder of one of Hugging Face; "
        "bundle of torchaudio; package.module:factory; YAML of an ensemble",
    )
    p.add_argument(
        "--teacher_conf",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="option of the kind of teacher",
    )
    p.add_argument("--teacher_config", help="config.yaml of an ESPnet model")
    p.add_argument("--teacher_model", help="weights of an ESPnet model")


def teacher_of(
    args: argparse.Namespace, device: str, dtype: str = "float32"
) -> Teacher:
    """Open the teacher that the flags say."""
    options = _read_options(args.teacher_conf)
    files = [f for f in (args.teacher_config, args.teacher_model) if f]
    if files and args.teacher_type != "espnet":
        raise InputError(
            f"--teacher_config and --teacher_model are of --teacher_type espnet, and "
            f"it is {args.teacher_type}: give --teacher"
        )
    if files and args.teacher:
        raise InputError(
            f"both --teacher {args.teacher} and {files[0]} say which teacher: give "
            "--teacher, or --teacher_config and --teacher_model"
        )
    for name in ("config", "model"):
        if getattr(args, f"teacher_{name}"):
            options[f"{name}_file"] = getattr(args, f"teacher_{name}")
    return open_teacher(args.teacher_type, args.teacher, device, options, dtype)


def _read_options(given: Sequence[str]) -> Dict[str, Any]:
    """Options as ``key=value``, the value in YAML.

    Args:
        given: on the command line.

    Returns:
        Key -> value.

    Raises:
        InputError: one is not of that form.
    """
    options = {}
    for option in given:
        key, separator, value = option.partition("=")
        if not key.isidentifier() or not separator:
            raise InputError(f"--teacher_conf is {option!r}; give KEY=VALUE")
        options[key] = yaml.safe_load(value)
    return options


if __name__ == "__main__":
    run(main)
