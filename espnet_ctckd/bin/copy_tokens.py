"""Write a teacher's tokens for a student: tokens.txt, token_type and bpe.model.

Order and names are those of an ESPnet student: the blank first, a space as <space>, and
no special tokens except <unk> and <sos/eos>.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from espnet_ctckd.bin.cli import parser, run
from espnet_ctckd.bin.flags import add_teacher, teacher_of
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike, atomic_path, atomic_write

if TYPE_CHECKING:
    from espnet_ctckd.teachers import Teacher


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Copy the tokens."""
    p = parser(__doc__)
    add_teacher(p)
    p.add_argument("--output_dir", required=True, help="folder to write")
    args = p.parse_args(cmd)
    folder = Path(args.output_dir)
    config = args.teacher_config
    from espnet_ctckd.models.zoo import find_model

    if args.teacher and not config and args.teacher_type == "espnet":
        config, _ = find_model(args.teacher)
    note = ""
    if config:
        tokens, kind, model = _of_espnet(config)
    else:
        teacher = teacher_of(args, "cpu")
        tokens = student_tokens(teacher)
        kind, model = token_type(tokens), None
        if kind == "bpe":
            model, note = _model_of(teacher, tokens)
    if model is not None:
        with atomic_path(folder / "bpe.model") as partial:
            partial.write_bytes(model)
    else:
        (folder / "bpe.model").unlink(missing_ok=True)
    with atomic_write(folder / "token_type") as f:
        f.write(kind + "\n")
    with atomic_write(folder / "tokens.txt") as f:
        f.writelines(f"{token}\n" for token in tokens)
    print(f"{len(tokens)} tokens of type {kind}: {folder}{note}")


def _model_of(teacher: Teacher, tokens: Sequence[str]) -> Tuple[bytes, str]:
    """Return the sentencepiece model of a teacher's word pieces, and a note."""
    from espnet_ctckd.data.spelling import check_model, make_model

    if teacher.bpemodel is not None:
        check_model(teacher.bpemodel, tokens, "the teacher's sentencepiece model")
        return teacher.bpemodel, ""
    return make_model(tokens), (
        ". The teacher's splitting of words into pieces is unknown: bpe.model converts "
        "pieces to text, and trains only students without transcripts (kd.weight: 1)"
    )


def _of_espnet(config: Pathlike) -> Tuple[List[str], str, Optional[bytes]]:
    from espnet2.tasks.asr import ASRTask

    from espnet_ctckd.models.checkpoint import load_config
    from espnet_ctckd.models.espnet import task_of
    from espnet_ctckd.teachers.espnet import spoken_tokens

    conf = load_config(config)
    if not isinstance(conf.get("token_list"), list):
        raise InputError(f"{config} holds no token list")
    model = None
    if conf.get("bpemodel"):
        path = Path(conf["bpemodel"])
        if not path.is_file():
            raise InputError(f"there is no {path}, which {config} names as bpemodel")
        model = path.read_bytes()
    tokens = conf["token_list"]
    if task_of(conf) is not ASRTask:
        output = [tokens[i] for i in spoken_tokens(tokens, tokens.index("<blank>"))]
        tokens = ["<blank>", "<unk>"]
        tokens += [t for t in output if t not in tokens] + ["<sos/eos>"]
    return tokens, conf["token_type"], model


def student_tokens(teacher: Teacher) -> List[str]:
    """Return the token list of a student with all output tokens of a teacher.

    Args:
        teacher: a teacher of any type.

    Returns:
        Blank, unknown, the teacher's own tokens, and the end token. Word pieces have
        sentencepiece's names.
    """
    from espnet_ctckd.tokens import SPECIAL, espnet_names

    names = espnet_names(teacher.token_list)
    del names[teacher.blank]
    own = [n for n in names if n == "<space>" or not SPECIAL.fullmatch(n)]
    return ["<blank>", "<unk>", *dict.fromkeys(own), "<sos/eos>"]


def token_type(tokens: Sequence[str]) -> str:
    """Return ``bpe`` for word pieces, ``char`` for characters, otherwise ``word``."""
    from espnet_ctckd.tokens import SPECIAL, has_pieces

    own = [token for token in tokens if not SPECIAL.fullmatch(token)]
    if has_pieces(own):
        return "bpe"
    return "char" if all(len(token) == 1 for token in own) else "word"


if __name__ == "__main__":
    run(main)
