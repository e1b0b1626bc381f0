"""Searches, timings and blank collapse, against slow references and other libraries."""

import dataclasses
import functools
import gzip
import itertools
import json
import multiprocessing
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
import tiny
import torch
import torchaudio
import yaml
from hypothesis import given
from hypothesis import strategies as st

import espnet_ctckd.decode.lexicon
import espnet_ctckd.decode.recogniser
from espnet_ctckd.bin import check_lm, decode, make_lexicon, tune_decoding
from espnet_ctckd.bin.cli import configured, parser
from espnet_ctckd.bin.flags import add_search, search_of
from espnet_ctckd.choices import Choice, InputError
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.decode import DECODER_CHOICES
from espnet_ctckd.decode.align import align
from espnet_ctckd.decode.base import Decoder
from espnet_ctckd.decode.collapse import collapse
from espnet_ctckd.decode.lexicon import limit_homophones, read_lexicon
from espnet_ctckd.decode.pool import SearchPool
from espnet_ctckd.decode.recogniser import Recogniser, recognise
from espnet_ctckd.decode.search import (
    Search,
    SearchConfig,
    options_of,
    words_of,
)

ROOT = Path(__file__).parent.parent
TOKENS = ["<blank>", "<unk>", "<space>", "a", "b", "c", "d", "<sos/eos>"]


def draw(frames, seed, sharp=3.0, blank=0, tokens=8):
    """Log-probabilities (U, V), mostly of the blank."""
    generator = np.random.default_rng(seed)
    scores = sharp * generator.normal(size=(frames, tokens))
    scores[:, blank] += sharp
    return scores - np.logaddexp.reduce(scores, 1, keepdims=True)


# Blank Collapse


@pytest.mark.parametrize(
    ("blank", "threshold", "kept"),
    [
        (
            [
                0.999,
                0.999,
                0.1,
                0.999,
                0.999,
                0.999,
                0.2,
                0.3,
                0.995,
                0.1,
                0.999,
                0.999,
            ],
            theta,
            [2, 5, 6, 7, 8, 9],
        )
        for theta in (0.9, 0.99)
    ]
    + [
        ([0.999, 0.1, 0.995, 0.1], 0.9995, [0, 1, 2, 3]),
        ([0.999] * 5, 0.9, [4]),
        ([0.1, 0.2], 0.9, [0, 1]),
        ([], 0.9, []),
        ([1.0, 1.0], 1.0, [0, 1]),
    ],
)
def test_collapse_keeps_what_the_vectors_say(blank, threshold, kept):
    with np.errstate(divide="ignore"):
        found = collapse(np.log(np.array(blank)), threshold)
    assert found.tolist() == kept


def slow_collapse(blank, threshold):
    """Run by run."""
    sure = [p > threshold for p in blank]
    kept, place = [], 0
    for is_sure, run in itertools.groupby(sure):
        size = len(list(run))
        frames = list(range(place, place + size))
        place += size
        if not is_sure:
            kept += frames
        elif frames[0] > 0 and frames[-1] < len(sure) - 1:
            kept.append(frames[-1])
    return kept or ([len(sure) - 1] if sure else [])


@given(
    st.lists(st.sampled_from([0.05, 0.5, 0.9, 0.95, 0.999, 1.0]), max_size=12),
    st.sampled_from([0.5, 0.9, 0.99, 0.9999]),
)
def test_collapse_is_what_run_by_run_would_do(blank, threshold):
    found = collapse(np.log(np.array(blank, np.float64)), threshold).tolist()
    assert found == slow_collapse(blank, threshold)
    # What greedy says is not changed: the others and one blank between them are there.
    if threshold >= 0.5:
        path = [0 if p > 0.5 else 3 + i % 2 for i, p in enumerate(blank)]
        said = [t for t, _ in itertools.groupby(path) if t]
        kept = [path[i] for i in found]
        assert [t for t, _ in itertools.groupby(kept) if t] == said


# Alignment


@given(
    st.integers(0, 10**6), st.integers(1, 14), st.lists(st.integers(3, 5), max_size=4)
)
def test_no_alignment_is_more_probable(seed, frames, tokens):
    log_probs = draw(frames, seed)
    repeats = sum(a == b for a, b in itertools.pairwise(tokens))
    if len(tokens) + repeats > frames:
        with pytest.raises(InputError, match="cannot be aligned"):
            align(log_probs, tokens, 0)
        return
    spans = align(log_probs, tokens, 0)
    assert [span.token for span in spans] == tokens
    if not tokens:
        return
    path = np.zeros(frames, int)
    for span in spans:
        path[span.start : span.end] = span.token
        expected = np.exp(log_probs[span.start : span.end, span.token]).mean()
        assert span.confidence == pytest.approx(expected)
    score = log_probs[np.arange(frames), path].sum()
    assert score == pytest.approx(slow_alignment(log_probs, tokens))


def slow_alignment(log_probs, tokens):
    """The log-probability of the best alignment, by trying every end of each token."""

    @functools.cache
    def best(frame, number, last):
        if frame == len(log_probs):
            return 0.0 if number == len(tokens) else -np.inf
        said = log_probs[frame]
        ways = [said[0] + best(frame + 1, number, 0)]
        if last:
            ways.append(said[last] + best(frame + 1, number, last))
        if number < len(tokens) and tokens[number] != last:
            token = tokens[number]
            ways.append(said[token] + best(frame + 1, number + 1, token))
        return max(ways)

    return best(0, 0, 0)


def test_long_hypotheses_are_aligned():
    log_probs = draw(600, seed=2)
    tokens = [3 + i % 3 for i in range(200)]
    spans = align(log_probs, tokens, 0)
    assert [span.token for span in spans] == tokens
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_impossible_tokens_are_not_aligned(dtype):
    log_probs = draw(9, seed=1).astype(dtype)
    log_probs[:, 4] = -np.inf
    with pytest.raises(InputError, match="2 tokens cannot be aligned to 9 frames"):
        align(log_probs, [3, 4], 0)
    log_probs[6, 4] = -30.0
    (_, span) = align(log_probs, [3, 4], 0)
    assert (span.start, span.end) == (6, 7)


# Words


def test_tokens_make_words():
    assert words_of(["▁he", "ll", "▁", "o"], "bpe") == (("hell", 0, 2), ("o", 2, 4))
    assert words_of(["a", "<space>", "<space>", "b"], "char") == (
        ("a", 0, 1),
        ("b", 3, 4),
    )
    assert words_of(["<space>", "a", "<space>"], "char") == (("a", 1, 2),)
    assert words_of(["ab", "c"], "word") == (("ab", 0, 1), ("c", 1, 2))
    assert words_of([], "char") == ()


# Search with a lexicon


ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.0\t<unk>\t0
0\t<s>\t-0.3
-0.9\t</s>\t0
-0.7\tab\t-0.2
-0.5\tcd\t-0.1

\\2-grams:
-0.2\t<s> cd
-0.3\tcd ab
-0.1\tab </s>

\\end\\
"""


@pytest.fixture
def lexicon(tmp_path):
    pytest.importorskip("flashlight.lib.text")
    (tmp_path / "lexicon").write_text("ab a b\ncd c d\nab b a\n")
    (tmp_path / "lm.arpa").write_text(ARPA)
    return tmp_path / "lexicon"


@pytest.mark.parametrize("lm", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_the_lexicon_search_is_that_of_torchaudio(lexicon, tmp_path, lm, seed):
    """Which has no end of words of its own: it is given one more frame, a space."""
    decoder = pytest.importorskip("torchaudio.models.decoder")
    spelled = tmp_path / "spelled"
    spelled.write_text(lexicon.read_text().replace("\n", " <space>\n"))
    scales = {"lm_scale": 1.3, "word_score": -0.4, "silence_score": 0.1}
    path = str(tmp_path / "lm.arpa") if lm else None
    config = SearchConfig(
        **{"method": "lexicon", "lexicon": str(lexicon), "lm": path, **scales},
        **{"beam": 30, "nbest": 5, "beam_threshold": 40.0},
    )
    theirs = decoder.ctc_decoder(
        str(spelled),
        TOKENS,
        lm=path,
        nbest=5,
        beam_size=30,
        beam_size_token=8,
        beam_threshold=40.0,
        lm_weight=scales["lm_scale"],
        word_score=scales["word_score"],
        sil_score=scales["silence_score"],
        blank_token="<blank>",
        sil_token="<space>",
    )
    log_probs = draw(20, seed, sharp=1.5)
    found, searched = Search(config, TOKENS, 0, "char")([log_probs])[0]
    ended = np.concatenate([log_probs, np.full((1, 8), -1e4)])
    ended[-1, 2] = 0.0
    expected = theirs(torch.from_numpy(ended).float().unsqueeze(0))[0]
    assert searched == 20
    assert len(found) == len(expected) > 0
    assert [h.score for h in found] == pytest.approx([e.score for e in expected])
    assert [[w for w, _, _ in h.words] for h in found[:1]] == [expected[0].words]
    for hypothesis in found:
        for word, first, after in hypothesis.words:
            said = "".join(TOKENS[t] for t in hypothesis.tokens[first:after])
            assert sorted(said) == sorted(word)


def test_a_lexicon_finds_the_words_that_are_there(lexicon):
    path = [3, 3, 0, 4, 2, 2, 0, 5, 6, 0]
    log_probs = np.log(np.full((10, 8), 0.01) + 0.92 * np.eye(8)[path])
    config = SearchConfig(method="lexicon", lexicon=str(lexicon))
    (best, *_), _ = Search(config, TOKENS, 0, "char")([log_probs])[0]
    assert best.words == (("ab", 0, 2), ("cd", 3, 5))
    assert best.tokens == (3, 4, 2, 5, 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ab a x\n", r"lexicon:1 spells 'ab' with x; give tokens"),
        ("ab a b\ncd\n", r"lexicon:2 spells 'cd' with nothing"),
        ("", "is empty"),
        ("\ufeffab a b\n", "begins with a byte order mark"),
    ],
)
def test_a_lexicon_of_other_tokens_is_refused(lexicon, content, message):
    lexicon.write_text(content)
    config = SearchConfig(method="lexicon", lexicon=str(lexicon))
    with pytest.raises(InputError, match=message):
        Search(config, TOKENS, 0, "char")


def with_lm(lexicon, lm):
    config = SearchConfig(method="lexicon", lexicon=str(lexicon), lm=str(lm))
    return Search(config, TOKENS, 0, "char")


def test_words_that_the_language_model_lacks_are_told(lexicon, tmp_path, caplog):
    with_lm(lexicon, tmp_path / "lm.arpa")
    even = ARPA.replace("-0.7\tab", "-1.0\tab").replace("-0.5\tcd", "-1.0\tcd")
    even = even.replace("-0.2\t<s> cd\n", "").replace("ngram 2=3", "ngram 2=2")
    (tmp_path / "even.arpa").write_text(even)
    with_lm(lexicon, tmp_path / "even.arpa")
    assert not caplog.records
    lexicon.write_text("ab a b\ncd c d\nda d a\n")
    with_lm(lexicon, tmp_path / "lm.arpa")
    (record,) = caplog.records
    assert "1 of the 3 words" in record.getMessage()
    assert record.getMessage().endswith("<unk>: da")
    lexicon.write_text("AB a b\nCD c d\n")
    with pytest.raises(InputError, match=r"knows none of the 2 words .* AB, CD"):
        with_lm(lexicon, tmp_path / "lm.arpa")


GZIPPED = gzip.compress(ARPA.encode())
# What is no language model that can be read, and why.
UNREADABLE = {
    "empty": (b"", "it is empty"),
    "text": (b"no model\n", "its first line is 'no model'"),
    "noise": (b"\x00\xff\x13" * 50, "its first line is"),
    "cut in its unigrams": (ARPA[:60].encode(), "line 3 of its 5 unigrams"),
    "cut in its bigrams": (ARPA[:-30].encode(), r"its end .* is missing"),
    "without an end": (
        ARPA.replace("\\end\\\n", "").encode(),
        r"its end .* is missing",
    ),
    "blanks": (ARPA.replace("\t", " ").encode(), "with tabs after probabilities"),
    "header": (ARPA.replace("ngram 1=5", "").encode(), "no line `ngram 1="),
    "text in gzip": (gzip.compress(b"no model"), "its first line is 'no model'"),
    "gzip cut short": (GZIPPED[:-9], "gzip file that is damaged or cut short"),
    "gzip without its end": (GZIPPED[:-4], "gzip file that is damaged or cut short"),
    "damaged gzip": (
        GZIPPED[:40] + b"\x00\x01" + GZIPPED[42:],
        "gzip file that is damaged or cut short",
    ),
    "gzip of a cut file": (
        gzip.compress(ARPA[:-30].encode()),
        r"its end .* is missing",
    ),
    "old binary": (
        b"mmap lm http://kheafield.com/code format version 4\n\x00" + 99 * b"\x00",
        r"another version of KenLM \(format version 4",
    ),
    "cut binary": (
        b"mmap lm http://kheafield.com/code format version 5\n\x00",
        "KenLM cannot read the language model",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_is_no_language_model_is_refused(lexicon, tmp_path, name):
    content, message = UNREADABLE[name]
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        with_lm(lexicon, tmp_path / "bad")
    assert f"the language model {tmp_path}/bad" in str(caught.value)
    # A recipe finds it out before its training.
    if name != "cut binary":
        status, stderr = tiny.call(check_lm, "--lm", tmp_path / "bad")
        assert status == 1
        assert re.search(message, tiny.the_error(stderr))


def test_a_language_model_that_is_not_there_or_a_folder_is_refused(tmp_path, lexicon):
    for lm, message in (
        (tmp_path / "gone", f"there is no language model {tmp_path}/gone"),
        (tmp_path, f"the language model {tmp_path} is a folder"),
    ):
        with pytest.raises(InputError, match=message):
            with_lm(lexicon, lm)
        status, stderr = tiny.call(check_lm, "--lm", lm)
        assert status == 1
        assert message in tiny.the_error(stderr)


def test_a_gzipped_language_model_is_read_as_it_is(
    lexicon, tmp_path, tiny_model, capsys
):
    # Gzip is told by the first bytes, as KenLM does.
    for name in ("lm.arpa.gz", "packed.arpa"):
        (tmp_path / name).write_bytes(GZIPPED)
    log_probs = draw(40, 3)
    found = [
        with_lm(lexicon, tmp_path / name)([log_probs])[0][0][0].words
        for name in ("lm.arpa", "lm.arpa.gz", "packed.arpa")
    ]
    assert found[0] == found[1] == found[2]
    out = tmp_path / "made"
    flags = ["--asr_train_config", str(tiny_model.config), "--output", str(out)]
    (tmp_path / "list.gz").write_bytes(gzip.compress(b"ab\ncd\n"))
    for name in ("lm.arpa", "lm.arpa.gz", "packed.arpa", "list.gz"):
        make_lexicon.main(["--words", str(tmp_path / name), *flags])
        assert out.read_text() == "ab a b\ncd c d\n"
        out.unlink()
        check_lm.main(
            ["--lm", str(tmp_path / "lm.arpa"), "--words", str(tmp_path / name)]
        )
    assert f"2 words in {tmp_path}/list.gz" in capsys.readouterr().out
    # A lexicon, too.
    zipped = tmp_path / "lexicon.gz"
    zipped.write_bytes(gzip.compress(lexicon.read_bytes()))
    assert read_lexicon(zipped, TOKENS) == read_lexicon(lexicon, TOKENS)


def test_words_are_not_read_of_a_binary_or_of_a_damaged_file(tmp_path, tiny_model):
    pytest.importorskip("flashlight.lib.text")
    (tmp_path / "lm.bin").write_bytes(
        b"mmap lm http://kheafield.com/code format version 5\n\x00\xff"
    )
    (tmp_path / "cut.gz").write_bytes(GZIPPED[:-9])
    (tmp_path / "latin").write_bytes("ä\n".encode("latin-1"))
    for name, message in (
        ("lm.bin", "whose words cannot be read: give the words .* --lexicon"),
        ("cut.gz", "cut.gz is a gzip file that is damaged or cut short"),
        ("latin", "latin is not UTF-8 text"),
        ("", "is a folder"),
        ("gone", "there is no list of words .*gone"),
    ):
        flags = ["--words", tmp_path / name, "--output", tmp_path / "made"]
        flags += ["--asr_train_config", tiny_model.config]
        status, stderr = tiny.call(make_lexicon, *flags)
        assert status == 1
        assert re.search(message, tiny.the_error(stderr))
        assert not (tmp_path / "made").exists()
    status, stderr = tiny.call(check_lm, "--lm", tmp_path / "lm.bin")
    assert status == 1
    assert "--lexicon" in tiny.the_error(stderr)
    (tmp_path / "list").write_text("ab\n")
    given = ["--lm", tmp_path / "lm.bin", "--words", tmp_path / "list"]
    assert tiny.call(check_lm, *given)[0] == 0


def test_a_language_model_without_permission_is_refused(tmp_path, lexicon, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read everything
    with pytest.raises(InputError, match="you have no permission to read it"):
        with_lm(lexicon, tmp_path / "lm.arpa")


# Homophones


@given(
    st.lists(
        st.tuples(st.sampled_from("pqrstuvw"), st.sampled_from(["a", "a b", "b a"])),
        max_size=30,
    ),
    st.permutations(range(8)),
    st.integers(1, 3),
)
def test_the_homophones_that_are_kept_are_those_of_a_slow_count(lines, order, most):
    prefer = dict(zip("pqrstuvw", order))
    spellings = {}
    for word, way in lines:
        spellings.setdefault(word, []).append(way.split())
    kept, dropped = limit_homophones(spellings, prefer.__getitem__, most)
    expected, gone = set(), set()
    for way in {way for _, way in lines}:
        alike = sorted(
            {w for w, other in lines if other == way}, key=lambda w: -prefer[w]
        )
        expected |= {(w, way) for w in alike[:most]}
        gone |= set(alike[most:])
    pairs = [(word, " ".join(way)) for word, ways in kept.items() for way in ways]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == expected
    assert set(dropped) == gone
    assert list(kept) == [word for word in spellings if word in kept]


def write_homophones(lexicon, folder):
    """Write nine words of one spelling, and a language model that prefers the last."""
    words = [f"w{i}" for i in range(9)]
    # A spelling that is listed twice takes no place of another.
    lines = [f"{word} a b\n" for word in [words[0], *words]]
    lexicon.write_text("".join(lines) + "cd c d\nw0 b a\n")
    listed = "".join(f"-{3 - 0.1 * i:.1f}\t{w}\t0\n" for i, w in enumerate(words))
    arpa = ARPA.replace("ngram 1=5", "ngram 1=13").replace("-0.7\tab\t-0.2\n", listed)
    # After <s> the least likely one is the likeliest: that is no preference for it.
    arpa = arpa.replace("-0.3\tcd ab\n-0.1\tab </s>\n", "-0.1\t<s> w0\n")
    (folder / "many.arpa").write_text(arpa.replace("2=3", "2=2"))
    return words


def test_of_many_homophones_those_of_the_language_model_are_kept(
    lexicon, tmp_path, caplog, capfd
):
    write_homophones(lexicon, tmp_path)
    search = with_lm(lexicon, tmp_path / "many.arpa")
    (record,) = caplog.records
    assert (
        "many.arpa prefers, and leaves 3 out of it: w0, w1, w2" in record.getMessage()
    )
    assert "Trie" not in capfd.readouterr().err  # what flashlight-text says of it
    path = [3, 3, 0, 4, 2, 2, 0, 5, 6, 0]
    log_probs = np.log(np.full((10, 8), 0.01) + 0.92 * np.eye(8)[path])
    (best, *_), _ = search([log_probs])[0]
    assert [word for word, _, _ in best.words] == ["w8", "cd"]
    # The other spelling of a word that is left out of one is found.
    other = np.log(np.full((3, 8), 0.01) + 0.92 * np.eye(8)[[4, 0, 3]])
    assert search([other])[0][0][0].words == (("w0", 0, 2),)


def test_of_many_homophones_the_first_are_kept_without_a_language_model(
    lexicon, tmp_path, caplog
):
    words = write_homophones(lexicon, tmp_path)
    config = SearchConfig(method="lexicon", lexicon=str(lexicon), nbest=40, beam=90)
    path = [3, 3, 0, 4, 2, 2, 0, 5, 6, 0]
    log_probs = np.log(np.full((10, 8), 0.01) + 0.92 * np.eye(8)[path])
    hypotheses, _ = Search(config, TOKENS, 0, "char")([log_probs])[0]
    (record,) = caplog.records
    assert "that stand first, and leaves 3 out of it: w6, w7, w8" in record.getMessage()
    said = {h.words[0][0] for h in hypotheses if h.tokens == (3, 4, 2, 5, 6)}
    assert said == set(words[:6])


# Nothing to search


@pytest.mark.parametrize("method", ["greedy", "prefix_beam", "lexicon"])
def test_of_no_frames_the_hypothesis_is_empty(lexicon, tmp_path, method):
    files = {"lexicon": str(lexicon), "lm": str(tmp_path / "lm.arpa")}
    config = SearchConfig(method=method, **(files if method == "lexicon" else {}))
    search = Search(config, TOKENS, 0, "char")
    log_probs = draw(12, 4)
    found = search([log_probs[:0], log_probs, log_probs[:0]])
    assert found[1] == search([log_probs])[0]
    for hypotheses, frames in (found[0], found[2]):
        assert frames == 0
        assert [(h.tokens, h.words) for h in hypotheses] == [((), ())]


# The methods together


@pytest.mark.parametrize("seed", range(5))
def test_collapse_changes_no_search_of_sure_posteriors(lexicon, seed):
    log_probs = draw(60, seed, sharp=12.0)
    for more in (
        {},
        {"method": "prefix_beam", "beam": 8, "nbest": 3},
        {"method": "lexicon", "lexicon": str(lexicon)},
    ):
        full, frames = Search(SearchConfig(**more), TOKENS, 0, "char")([log_probs])[0]
        config = SearchConfig(**more, blank_collapse=0.999)
        short, fewer = Search(config, TOKENS, 0, "char")([log_probs])[0]
        assert short[0].tokens == full[0].tokens
        assert short[0].words == full[0].words
        assert fewer < frames == 60


def test_a_prior_is_taken_out_after_the_blanks_are_collapsed(tmp_path):
    prior = np.full(8, 0.01)
    prior[0], prior[3] = 0.5, 0.44
    (tmp_path / "prior").write_text(
        "".join(f"{t} {np.log(p)}\n" for t, p in zip(TOKENS, prior))
    )
    config = {"method": "prefix_beam", "prior_file": str(tmp_path / "prior")}
    log_probs = draw(30, 3, sharp=4.0)
    for theta in (1.0, 0.9):
        search = Search(
            SearchConfig(**config, prior_scale=0.7, blank_collapse=theta),
            TOKENS,
            0,
            "char",
        )
        kept = log_probs[collapse(log_probs[:, 0], theta)]
        plain = Search(SearchConfig(method="prefix_beam"), TOKENS, 0, "char")
        ((found, searched),) = search([log_probs])
        assert searched == len(kept)
        expected = plain([kept - 0.7 * np.log(prior)])[0][0][0]
        assert found[0].tokens == expected.tokens
        assert found[0].score == pytest.approx(expected.score)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "viterbi"}, "unknown --method 'viterbi'; choose one of greedy"),
        ({"blank_collapse": 0.0}, r"--blank_collapse is 0.0; give one in"),
        ({"nbest": 2}, "greedy has one answer"),
        ({"method": "prefix_beam", "nbest": 30}, "--beam 20: a beam holds no more"),
        ({"beam": 0}, "--beam is 0; give one of at least 1"),
        ({"method": "lexicon"}, "--method lexicon and --lexicon go together"),
        ({"lexicon": "x"}, "--lexicon is of --method lexicon"),
        ({"lm": "x"}, "--lm is of --method lexicon"),
        ({"prior_scale": 0.3}, "give both, the scale above 0, or neither"),
        ({"prior_file": "x"}, "give both, the scale above 0, or neither"),
    ],
)
def test_a_search_without_sense_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        SearchConfig(**options)


class FirstTokens(Decoder):
    """The most probable tokens of the first frame."""

    def __init__(self, vocabulary, *, nbest, beam):
        super().__init__(vocabulary)
        self.number = min(nbest, beam)

    def __call__(self, log_probs):
        return [
            [
                self.hypothesis([int(token)], float(each[0, token]))
                for token in np.argsort(-each[0])[: self.number]
            ]
            for each in log_probs
        ]


@pytest.fixture
def first_tokens(monkeypatch):
    entry = Choice(FirstTokens, "baseline")
    monkeypatch.setitem(DECODER_CHOICES, "first_tokens", entry)


def test_a_decoder_is_an_entry(first_tokens, tmp_path, tiny_model, tiny_data):
    flags = ["--method", "first_tokens", "--nbest", 2]
    flags = flags_of(tiny_model, tiny_data, tmp_path, *flags)
    status, stderr = tiny.call(decode, *flags)
    assert status == 0, stderr
    model = Recogniser(tiny_model.config, tiny_model.weights)
    found = read_scp(tmp_path / "token")
    for batch, audio in model.read(str(tiny_data.wav_scp), 10.0):
        for utterance, speech in zip(batch, audio):
            log_probs, _ = model.say([speech])
            best = model.tokens[int(log_probs[0, 0].argmax())]
            assert found[utterance.name] == best
    assert json.loads((tmp_path / "decode.json").read_text())["search"]["nbest"] == 2
    assert read_scp(tmp_path / "nbest").keys() == found.keys()


def test_the_checks_follow_from_the_entries(first_tokens):
    assert SearchConfig(method="first_tokens", nbest=3).options == {
        "nbest": 3,
        "beam": 20,
    }
    with pytest.raises(InputError, match="prefix_beam and lexicon and first_tok"):
        SearchConfig(nbest=3)
    with pytest.raises(InputError, match="--lexicon is of --method lexicon"):
        SearchConfig(method="first_tokens", lexicon="x")


@pytest.mark.parametrize("method", DECODER_CHOICES)
def test_the_options_of_a_decoder_are_of_the_search(method):
    fields = {field.name for field in dataclasses.fields(SearchConfig)}
    assert set(options_of(method)) <= fields
    assert set(DECODER_CHOICES[method].needs) <= set(options_of(method))
    assert DECODER_CHOICES[method].reference


# The commands


def flags_of(model, data, out, *more):
    flags = ["--asr_train_config", model.config, "--asr_model_file", model.weights]
    return [*flags, "--wav_scp", data.wav_scp, "--output_dir", out, *more]


def test_every_method_decodes_a_set(tmp_path, tiny_model, tiny_data, lexicon):
    more = {
        "greedy": [],
        "prefix": ["--method", "prefix_beam", "--nbest", 3, "--ctm"],
        "forked": ["--method", "prefix_beam", "--nbest", 3, "--search_processes", 2],
        "words": ["--method", "lexicon", "--lexicon", lexicon, "--ctm"],
    }
    for name, options in more.items():
        flags = flags_of(tiny_model, tiny_data, tmp_path / name, *options)
        status, stderr = tiny.call(decode, *flags)
        assert status == 0, stderr
    text = {name: read_scp(tmp_path / name / "text") for name in more}
    assert list(text["greedy"]) == sorted(tiny_data.wavs())
    assert text["prefix"] == text["forked"]
    words = {"ab", "cd"}
    assert all(set(t.split()) <= words for t in text["words"].values())
    for name in ("prefix", "forked"):
        lists = read_scp(tmp_path / name / "nbest")
        for utt, line in lists.items():
            scores = [score for score, _ in json.loads(line)]
            assert scores == sorted(scores, reverse=True)
            assert len({said for _, said in json.loads(line)}) == len(scores)
            assert all(said == " ".join(said.split()) for _, said in json.loads(line))
            assert json.loads(line)[0][1] == text[name][utt]
    for name in ("prefix", "words"):
        said = {utt: [] for utt in text[name]}
        for line in (tmp_path / name / "ctm").read_text().splitlines():
            utt, channel, start, length, word, sure = line.split()
            assert channel == "1"
            assert float(length) >= 0.04
            assert 0 <= float(sure) <= 1
            said[utt].append((float(start), float(length), word))
        for utt, timed in said.items():
            assert " ".join(word for _, _, word in timed) == text[name][utt]
            for (start, length, _), (after, _, _) in itertools.pairwise(timed):
                assert start + length <= after + 0.011
            audio = soundfile.info(tiny_data.wavs()[utt]).duration
            assert all(start + length <= audio + 0.011 for start, length, _ in timed)
    told = json.loads((tmp_path / "forked/decode.json").read_text())
    assert told["processes"] == 2
    assert told["frames"] == told["frames_searched"] > 0
    assert told["search"]["method"] == "prefix_beam"
    assert 0 < told["encoder_seconds"] < told["compute_seconds"]


@pytest.mark.parametrize("method", ["prefix_beam", "lexicon"])
def test_other_processes_find_the_same_and_read_nothing_again(
    tmp_path, tiny_model, tiny_data, lexicon, method, monkeypatch
):
    monkeypatch.setattr(espnet_ctckd.decode.recogniser, "_AHEAD", 1)
    files = {"lexicon": str(lexicon), "lm": str(tmp_path / "lm.arpa")}
    config = SearchConfig(
        method=method, nbest=3, **(files if method == "lexicon" else {})
    )
    model = Recogniser(tiny_model.config, tiny_model.weights)
    # A batch an utterance.
    here = recognise(model, str(tiny_data.wav_scp), 0.0, config, 0, times=True)

    def without_files(*args):
        for name in files.values():
            Path(name).unlink()
        return SearchPool(*args)

    monkeypatch.setattr(espnet_ctckd.decode.recogniser, "SearchPool", without_files)
    there = recognise(model, str(tiny_data.wav_scp), 0.0, config, 2, times=True)
    assert len(here.text) == len(tiny_data.wavs())
    for kind in ("text", "tokens", "nbest", "words"):
        assert getattr(there, kind) == getattr(here, kind)
    assert there.speed.frames_searched == here.speed.frames_searched


def test_a_process_that_dies_is_told(tiny_model):
    search = Search(SearchConfig(method="prefix_beam"), TOKENS, 0, "char")
    searching = SearchPool(search, 2)
    said = torch.from_numpy(draw(20, 0)).unsqueeze(0)
    (asked,) = searching.ask(said, torch.tensor([20]))
    searching.answer(asked)
    for child in multiprocessing.active_children():
        child.kill()
        child.join()
    with pytest.raises(InputError, match="one of the 2 processes that search has died"):
        searching.answer(searching.ask(said, torch.tensor([20]))[0])
    searching.close()


def test_a_folder_that_cannot_be_is_told_before_the_search(tmp_path, tiny_model):
    (tmp_path / "out").touch()
    (tmp_path / "wav.scp").write_text("a gone.wav\n")
    data = tiny.Data(tmp_path)
    status, stderr = tiny.call(decode, *flags_of(tiny_model, data, tmp_path / "out"))
    assert status == 1
    assert tiny.the_error(stderr).endswith(f": {tmp_path}/out")


def test_what_another_search_has_left_is_removed(tmp_path, tiny_model, tiny_data):
    more = ["--method", "prefix_beam", "--nbest", 3, "--ctm"]
    for options, left in ((more, {"nbest", "ctm"}), ([], set())):
        flags = flags_of(tiny_model, tiny_data, tmp_path / "out", *options)
        assert tiny.call(decode, *flags)[0] == 0
        found = {path.name for path in (tmp_path / "out").iterdir()}
        assert found - {"text", "token", "decode.json"} == left


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bpemodel": "gone/bpe.model"}, "there is no gone/bpe.model, which"),
        ({"encoder": "konformer"}, "--encoder must be one of"),
        ({"encoder_conf": {"layers": 3}}, "unexpected keyword argument 'layers'"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(
    tmp_path, tiny_model, tiny_data, change, message
):
    conf = {**yaml.safe_load(tiny_model.config.read_text()), **change}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(conf))
    model = tiny.Model(tmp_path / "config.yaml", tiny_model.weights)
    status, stderr = tiny.call(decode, *flags_of(model, tiny_data, tmp_path / "out"))
    assert status == 1
    assert message in tiny.the_error(stderr)


def test_collapsed_frames_are_counted_and_words_keep_their_times(
    tmp_path, tiny_model, tiny_data
):
    model = Recogniser(tiny_model.config, tiny_model.weights)
    found = {}
    for theta in (1.0, 0.5):
        config = SearchConfig(method="prefix_beam", blank_collapse=theta)
        found[theta] = recognise(model, str(tiny_data.wav_scp), 60.0, config, 0, True)
    assert found[0.5].speed.frames_searched < found[0.5].speed.frames
    for utt, text in found[0.5].text.items():
        if text == found[1.0].text[utt]:
            assert found[0.5].words[utt] == found[1.0].words[utt]


def test_the_scales_are_tuned_and_the_best_is_decoded_by_its_file(
    tmp_path, tiny_model, tiny_data, lexicon, capsys, monkeypatch
):
    read = []
    monkeypatch.setattr(
        espnet_ctckd.decode.lexicon,
        "read_lexicon",
        lambda *args: read.append(args) or read_lexicon(*args),
    )
    out = tmp_path / "best.yaml"
    flags = flags_of(tiny_model, tiny_data, tmp_path / "unused")[:-2]
    flags += ["--text", tiny_data.text, "--output", out, "--method", "lexicon"]
    flags += ["--lexicon", lexicon, "--lm", tmp_path / "lm.arpa"]
    flags += ["--lm_scales", 0, 1, 3, "--word_scores", -2, 2]
    status, stderr = tiny.call(tune_decoding, *flags)
    assert status == 0, stderr
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = [row for row in rows if len(row) >= 4 and row[0] in ("0", "1", "3")]
    assert len(table) == 6
    assert len(read) == 1  # language models are large
    best = min(table, key=lambda row: float(row[3]))
    chosen = yaml.safe_load(out.read_text())
    assert (chosen["lm_scale"], chosen["word_score"]) == (
        float(best[0]),
        float(best[2]),
    )
    decoded = flags_of(tiny_model, tiny_data, tmp_path / "test", "--config", out)
    assert tiny.call(decode, *decoded)[0] == 0
    hyp, ref = read_scp(tmp_path / "test/text"), read_scp(tiny_data.text)
    counts = [
        torchaudio.functional.edit_distance(ref[u].split(), hyp[u].split()) for u in ref
    ]
    wer = 100 * sum(counts) / sum(len(t.split()) for t in ref.values())
    assert float(best[3]) == pytest.approx(wer, abs=0.006)


def test_a_configuration_of_the_search_is_read_and_the_command_line_wins(
    tmp_path, tiny_model, tiny_data
):
    conf = tmp_path / "conf.yaml"
    conf.write_text("method: prefix_beam\nbeam: 7\nnbest: 2\n")
    flags = flags_of(tiny_model, tiny_data, tmp_path / "out", "--config", conf)
    assert tiny.call(decode, *flags, "--beam", 9)[0] == 0
    told = json.loads((tmp_path / "out/decode.json").read_text())["search"]
    assert (told["method"], told["beam"], told["nbest"]) == ("prefix_beam", 9, 2)
    for content, message in (
        ("beams: 7", "has the key 'beams', which is no flag here"),
        ("beam: x", "beam cannot be 'x'"),
        ("beam:", "has the key 'beam' without a value"),
        ("- beam", "holds no mapping of flags"),
    ):
        conf.write_text(content)
        status, stderr = tiny.call(decode, *flags)
        assert status == 1
        assert message in tiny.the_error(stderr)


def test_a_lexicon_is_made_of_a_list_a_dictionary_or_an_arpa(
    tmp_path, tiny_model, capsys
):
    sources = {
        "list": "ab\ncd\nab\nxy\n",
        "dictionary": "ab AH B\ncd(2) S D\n",
        "arpa": ARPA,
    }
    for name, content in sources.items():
        (tmp_path / name).write_text(content)
        flags = ["--words", str(tmp_path / name), "--output", str(tmp_path / "lexicon")]
        flags += ["--asr_train_config", str(tiny_model.config)]
        make_lexicon.main(flags)
        assert (tmp_path / "lexicon").read_text() == "ab a b\ncd c d\n"
    assert "2 of 3 words are spelled" in capsys.readouterr().out
    (tmp_path / "list").write_text("AB\n")
    with pytest.raises(InputError, match=r"none of the 1 words .* is their case"):
        make_lexicon.main(["--words", str(tmp_path / "list"), *flags[2:]])


@pytest.mark.parametrize(
    "conf", sorted((ROOT / "conf").glob("decode_*.yaml")), ids=lambda path: path.stem
)
def test_the_configurations_of_the_search_are_understood(conf, lexicon):
    p = parser("")
    add_search(p)
    more = ["--lexicon", str(lexicon)] if "lexicon" in conf.name else []
    config = search_of(configured(p, ["--config", str(conf), *more]))
    assert config.blank_collapse == 0.999
    assert config.method in conf.name
    assert conf.name in (ROOT / "espnet_ctckd/decode/README.md").read_text()
