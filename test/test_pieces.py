"""Teachers of word pieces: their tokens, texts and labels."""

import json
import sys

import pytest
import sentencepiece
import test_train
import tiny
import yaml

from espnet_ctckd.bin import (
    asr_train,
    check_cache,
    copy_tokens,
    decode,
    dump_nbest,
    dump_teacher,
    make_lexicon,
    prove_teacher,
    train_bpe,
)
from espnet_ctckd.cache.nbest import from_line
from espnet_ctckd.data.spelling import (
    make_model,
    model_of_tokenizer,
    open_model,
    splits_text,
)
from espnet_ctckd.plugin.task import CTCKDTask
from espnet_ctckd.tokens import join_pieces, map_tokens, piece_names

TEXTS = ["hello world", "he lo", "world hello he", "lo"]
# The same pieces as each library marks them, and a teacher's way to spell `TEXTS`.
STYLES = {
    "sentencepiece": (
        ["_", "▁he", "l", "lo", "▁", "▁wor", "ld", "<unk>", "<s>"],
        [[1, 2, 3, 5, 6], [1, 4, 3], [5, 6, 1, 2, 3, 1], [4, 3]],
        ["▁he", "l", "lo", "▁", "▁wor", "ld"],
    ),
    "bert": (
        ["[PAD]", "he", "##l", "##lo", "lo", "wor", "##ld", "[UNK]", "[CLS]"],
        [[1, 2, 3, 5, 6], [1, 4], [5, 6, 1, 2, 3, 1], [4]],
        ["▁he", "l", "lo", "▁lo", "▁wor", "ld"],
    ),
    "ends": (
        ["_", "he", "l", "lo</w>", "wor", "ld</w>", "he</w>", "<unk>"],
        [[1, 2, 3, 4, 5], [6, 3], [4, 5, 1, 2, 3, 6], [3]],
        ["he", "l", "lo▁", "wor", "ld▁", "he▁"],
    ),
    "continued": (
        ["_", "he@@", "l@@", "lo", "wor@@", "ld", "he", "<unk>"],
        [[1, 2, 3, 4, 5], [6, 3], [4, 5, 1, 2, 3, 6], [3]],
        ["he", "l", "lo▁", "wor", "ld▁", "he▁"],
    ),
    "bytes": (
        ["<pad>", "Ġhe", "l", "lo", "Ġlo", "Ġwor", "ld", "Ã"],
        [[1, 2, 3, 5, 6], [1, 4], [5, 6, 1, 2, 3, 1], [4]],
        ["▁he", "l", "lo", "▁lo", "▁wor", "ld", "Ã"],
    ),
}

OWN = """
import numpy as np

class Perfect:
    blank, rate = 0, 16000

    def __init__(self, tokens, paths, bpemodel=None):
        self.token_list = tokens
        self.paths = {int(length): path for length, path in paths}
        if bpemodel is not None:
            self.bpemodel = bpemodel

    def __call__(self, speech):
        best = np.zeros(len(speech) // 640, int)
        for place, token in enumerate(self.paths.get(len(speech), [])):
            best[2 * place + 1] = token
        logits = 12.0 * np.eye(len(self.token_list))[best]
        return logits - np.log(np.exp(logits).sum(1, keepdims=True))

def make(**told):
    return Perfect(**told)
"""


@pytest.fixture
def teacher(tmp_path, monkeypatch):
    """Data, and the flags of a teacher of one's own that transcribes it perfectly."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "perfect_teacher.py").write_text(OWN)
    sys.modules.pop("perfect_teacher", None)
    data = tiny.write_data(tmp_path / "data", (0.8, 0.7, 1.1, 0.65))
    lines = [f"utt{i:02d} {text}\n" for i, text in enumerate(TEXTS)]
    data.text.write_text("".join(lines))

    def flags(tokens, paths, **more):
        lengths = (12800, 11200, 17600, 10400)
        told = {"tokens": tokens, "paths": list(zip(lengths, paths)), **more}
        given = ["--teacher_type", "python", "--teacher", "perfect_teacher:make"]
        for key, value in told.items():
            given += ["--teacher_conf", f"{key}={json.dumps(value)}"]
        return given

    yield data, flags
    sys.modules.pop("perfect_teacher", None)


def call(module, *flags):
    status, stderr = tiny.call(module, *flags)
    assert status == 0, stderr


def cached(teacher, tmp_path, style="sentencepiece", **more):
    """Dump the teacher and copy its tokens; the flags of the student's tokens."""
    data, flags = teacher
    tokens, paths, _ = STYLES[style]
    given = flags(tokens, paths, **more)
    call(copy_tokens, *given, "--output_dir", tmp_path / "tokens")
    listed = tmp_path / "tokens/tokens.txt"
    given += ["--wav_scp", data.wav_scp, "--token_list", listed]
    call(dump_teacher, *given, "--output_dir", tmp_path / "cache")
    kind = (tmp_path / "tokens/token_type").read_text().strip()
    model = tmp_path / "tokens/bpe.model"
    return ["--token_list", listed, "--token_type", kind, "--bpemodel", model]


@pytest.mark.parametrize("style", STYLES)
def test_a_perfect_teacher_of_word_pieces_has_no_errors(
    teacher, tmp_path, capsys, style
):
    data, _ = teacher
    student = cached(teacher, tmp_path, style)
    assert student[3] == "bpe"
    tokens = (tmp_path / "tokens/tokens.txt").read_text().splitlines()
    assert tokens == ["<blank>", "<unk>", *STYLES[style][2], "<sos/eos>"]
    # By whatever type, the text is that of the pieces.
    for given in (student, [*student[:3], "word"], [*student[:3], "char"]):
        flags = ["--cache", tmp_path / "cache", "--text", data.text, *given]
        call(prove_teacher, *flags, "--output_dir", tmp_path / "proof")
        assert (tmp_path / "proof/text").read_text() == data.text.read_text()
    assert "word error rate       0.0 %" in capsys.readouterr().out


@pytest.mark.parametrize("style", ["sentencepiece", "bert", "continued"])
def test_n_best_lists_have_the_names_of_the_student_s_pieces(teacher, tmp_path, style):
    cached(teacher, tmp_path, style)
    flags = ["--cache", tmp_path / "cache", "--nbest", 2]
    call(dump_nbest, *flags, "--output_dir", tmp_path / "nbest")
    student = (tmp_path / "tokens/tokens.txt").read_text().splitlines()
    lines = (tmp_path / "nbest/nbest").read_text().splitlines()
    for line, text in zip(lines, TEXTS):
        _, hypotheses = from_line(line.split(maxsplit=1)[1], line.split()[0])
        best = hypotheses[0][0]
        assert set(best) <= set(student)
        assert join_pieces(best) == text


def train(tmp_path, teacher, student, kd, name, text=True):
    data, _ = teacher
    given = test_train.flags(
        tmp_path / name, data, tmp_path / "cache", kd, text, max_epoch=1, **SAME_RATE
    )
    at = given.index("--token_list")
    return [*given[:at], *map(str, student), *given[at + 4 :]]


SAME_RATE = {"best_model_criterion": [["valid", "loss_kd", "min"]]}
FREE = {**tiny.KD, "weight": 1.0}


def test_labels_that_are_not_the_teacher_s_are_refused(teacher, tmp_path):
    data, _ = teacher
    student = cached(teacher, tmp_path)
    message = "does not tell into which of these a word is split"
    command = train(tmp_path, teacher, student, tiny.KD, "labels")
    status, stderr = tiny.call(asr_train, *command)
    assert status == 1
    error = tiny.the_error(stderr)
    assert message in error
    assert "kd.weight: 1" in error
    for kind in ("word", "char"):
        command = train(tmp_path, teacher, [*student[:3], kind], tiny.KD, "labels")
        status, stderr = tiny.call(asr_train, *command)
        assert status == 1
        assert f"token_type is '{kind}', which would take every word for" in (
            tiny.the_error(stderr)
        )
    conf = tiny.write_conf(tmp_path / "student.yaml", tiny.KD)
    flags = ["--cache", tmp_path / "cache", "--wav_scp", data.wav_scp]
    flags += ["--text", data.text, "--asr_config", conf, *student]
    status, stderr = tiny.call(check_cache, *flags)
    assert status == 1
    assert message in tiny.the_error(stderr)


def test_without_labels_the_student_s_text_is_that_of_its_pieces(teacher, tmp_path):
    data, _ = teacher
    student = cached(teacher, tmp_path)
    CTCKDTask.main(cmd=train(tmp_path, teacher, student, FREE, "free"))
    exp = tmp_path / "free/exp"
    flags = ["--asr_train_config", exp / "config.yaml"]
    flags += ["--asr_model_file", exp / "1epoch.pth", "--wav_scp", data.wav_scp]
    call(decode, *flags, "--output_dir", tmp_path / "said")
    said = [
        dict(
            line.split(maxsplit=1)
            for line in path.read_text().splitlines()
            if " " in line
        )
        for path in (tmp_path / "said/token", tmp_path / "said/text")
    ]
    for utt, tokens in said[0].items():
        text = tokens.replace("<unk>", "▁⁇▁").replace(" ", "").replace("▁", " ")
        assert said[1].get(utt, "").split() == text.split()
    (tmp_path / "words").write_text("hello\n")
    spelled = ["--words", tmp_path / "words", "--output", tmp_path / "lexicon"]
    status, stderr = tiny.call(make_lexicon, *spelled, *flags[:2])
    assert status == 1
    assert "or decode without a lexicon" in tiny.the_error(stderr)


def test_with_its_sentencepiece_model_labels_are_the_teacher_s(teacher, tmp_path):
    data, _ = teacher
    flags = ["--text", data.text, "--output_dir", tmp_path / "bpe", "--vocab_size", 14]
    call(train_bpe, *flags)
    model = sentencepiece.SentencePieceProcessor(str(tmp_path / "bpe/bpe.model"))
    pieces = [model.id_to_piece(i) for i in range(3, model.get_piece_size())]
    tokens = ["_", *pieces]
    paths = [[tokens.index(p) for p in model.encode(t, out_type=str)] for t in TEXTS]
    STYLES["trained"] = (tokens, paths, pieces)
    try:
        student = cached(
            teacher, tmp_path, "trained", bpemodel=str(tmp_path / "bpe/bpe.model")
        )
    finally:
        del STYLES["trained"]
    stored = (tmp_path / "tokens/bpe.model").read_bytes()
    assert stored == (tmp_path / "bpe/bpe.model").read_bytes()
    CTCKDTask.main(cmd=train(tmp_path, teacher, student, tiny.KD, "labels"))
    args = CTCKDTask.get_parser().parse_args(
        train(tmp_path, teacher, student, tiny.KD, "labels")
    )
    labels = CTCKDTask.build_preprocess_fn(args, train=False)
    listed = (tmp_path / "tokens/tokens.txt").read_text().splitlines()
    for text, path in zip(TEXTS, paths):
        found = [listed[i] for i in labels("utt", {"text": text})["text"]]
        assert found == [tokens[i] for i in path]


def test_a_sentencepiece_model_of_other_pieces_is_refused(teacher, tmp_path):
    _, flags = teacher
    tokens, paths, _ = STYLES["sentencepiece"]
    (tmp_path / "other.model").write_bytes(make_model(["▁he", "x"]))
    given = flags(tokens, paths, bpemodel=str(tmp_path / "other.model"))
    status, stderr = tiny.call(copy_tokens, *given, "--output_dir", tmp_path / "tokens")
    assert status == 1
    assert "has 1 pieces that the teacher's tokens lack: x" in tiny.the_error(stderr)
    given = flags(tokens, paths, bpemodel=str(tmp_path / "none.model"))
    status, stderr = tiny.call(copy_tokens, *given, "--output_dir", tmp_path / "tokens")
    assert status == 1
    assert "none.model, and there is no such file" in tiny.the_error(stderr)


@pytest.mark.parametrize("kind", ["folder", "ensemble"])
def test_espnet_s_word_pieces_keep_their_model(tmp_path, tiny_data, kind):
    """From a folder or in an ensemble, not only from a configuration."""
    flags = ["--text", tiny_data.text, "--output_dir", tmp_path / "bpe"]
    call(train_bpe, *flags, "--vocab_size", 9)
    tokens = (tmp_path / "bpe/tokens.txt").read_text().splitlines()
    model = tiny.write_model(tmp_path / "model", tokens=tokens)
    conf = yaml.safe_load(model.config.read_text())
    conf.update(token_type="bpe", bpemodel=str(tmp_path / "bpe/bpe.model"))
    model.config.write_text(yaml.safe_dump(conf))
    given = ["--teacher", tmp_path / "model"]
    if kind == "ensemble":
        entry = {
            "weight": 1,
            "teacher_type": "espnet",
            "teacher": str(tmp_path / "model"),
        }
        both = {"teachers": [entry, entry], "min_agreement": 0}
        (tmp_path / "both.yaml").write_text(yaml.safe_dump(both))
        given = ["--teacher_type", "ensemble", "--teacher", tmp_path / "both.yaml"]
    call(copy_tokens, *given, "--output_dir", tmp_path / "tokens")
    assert (tmp_path / "tokens/token_type").read_text() == "bpe\n"
    assert (tmp_path / "tokens/tokens.txt").read_text().splitlines() == tokens
    stored = (tmp_path / "tokens/bpe.model").read_bytes()
    assert stored == (tmp_path / "bpe/bpe.model").read_bytes()


@pytest.mark.parametrize(
    "tokens",
    [
        ["<blank>", "a", "Ġ", "ġ", "#", "@"],  # Maltese letters
        ["▁he", "l", "##", "ĠA", "x@@"],
        ["ah", "b", "<space>"],
    ],
)
def test_other_lists_keep_their_names(tokens):
    assert piece_names(tokens) == tokens


def test_bert_s_pieces_are_not_matched_by_their_bare_strings():
    """``ing`` begins a word, and a student's ``ing`` continues one."""
    teacher, student = ["[PAD]", "ing", "##ing"], ["<blank>", "▁ing", "ing"]
    assert map_tokens(teacher, 0, student, 0, "here") is None
    assert map_tokens(teacher, 0, ["<blank>", "ing", "▁ing"], 0, "here") == [0, 2, 1]


# Tokenizers of Hugging Face


CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "she sells sea shells by the sea shore",
    "how much wood would a woodchuck chuck if a woodchuck could chuck wood",
    "peter piper picked a peck of pickled peppers",
]


@pytest.mark.parametrize("kind", ["BPE", "Unigram", "WordPiece"])
def test_a_tokenizer_s_sentencepiece_model_splits_as_it_does(kind):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    space = {"prepend_scheme": "always", "split": True}
    backend = tokenizers.Tokenizer(
        tokenizers.models.Unigram()
        if kind == "Unigram"
        else getattr(tokenizers.models, kind)(unk_token="<unk>")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(**space)
    if kind == "WordPiece":
        backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    trainer = getattr(tokenizers.trainers, f"{kind.replace('BPE', 'Bpe')}Trainer")(
        vocab_size=60,
        special_tokens=["<unk>", "<pad>"],
        **({"unk_token": "<unk>"} if kind == "Unigram" else {}),
    )
    backend.train_from_iterator(CORPUS, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>"
    )
    model = model_of_tokenizer(fast)
    if kind == "WordPiece":  # the longest first, which sentencepiece has not
        assert model is None
        return
    assert model is not None
    assert splits_text(model, "here")
    processor = open_model(model, "here")
    for text in [*CORPUS, "would she pick the brown dog", "quickly"]:
        assert processor.encode(text, out_type=str) == fast.tokenize(text)
