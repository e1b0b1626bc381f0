"""Counting recognition errors."""

import json
import shutil
import unicodedata

import jiwer
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from espnet_ctckd.bin import compare_scores, results
from espnet_ctckd.bin import score as score_command
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.kaldi import write_scp
from espnet_ctckd.evaluation.score import (
    Counts,
    Normalization,
    bootstrap_interval,
    count_errors,
    read_score,
    read_scores,
    results_table,
    score,
    spelled_by,
    write_scores,
)

PLAIN = Normalization()


def distance(a, b):
    """Levenshtein's, slow and plain."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        rows.append([i])
        for j, y in enumerate(b, 1):
            ways = (rows[-2][j] + 1, rows[-1][-1] + 1, rows[-2][j - 1] + (x != y))
            rows[-1].append(min(ways))
    return rows[-1][-1]


def check(reference, hypothesis):
    """Hold counts against the definitions, and the distance."""
    counts = count_errors(reference, hypothesis)
    assert counts.errors == distance(reference, hypothesis)
    assert counts.units == len(reference)
    assert counts.correct + counts.substitutions + counts.deletions == counts.units
    assert counts.correct + counts.substitutions + counts.insertions == len(hypothesis)
    assert (counts.sentences, counts.wrong) == (1, int(reference != hypothesis))
    return counts


words = st.lists(st.sampled_from(["a", "b", "ab", "A"]), max_size=7)
# A no-break and an ideographic space are characters of transcripts, too.
characters = st.text("ab \u00a0\u3000␣", max_size=8).map(list)


@given(words.filter(bool), words)
def test_word_errors_are_the_edit_distance_and_those_of_jiwer(reference, hypothesis):
    counts = check(reference, hypothesis)
    theirs = jiwer.process_words(" ".join(reference), " ".join(hypothesis))
    assert counts.rate == pytest.approx(100 * theirs.wer)
    assert (counts.correct, counts.substitutions, counts.deletions) == (
        theirs.hits,
        theirs.substitutions,
        theirs.deletions,
    )


@given(characters.filter(bool), characters)
@example(list("a b"), list("ab"))
@example(list("a \u3000 b"), list("ab"))
@example(list(" a"), list("a "))
def test_character_errors_are_the_edit_distance_and_a_space_counts(
    reference, hypothesis
):
    check(reference, hypothesis)


@given(st.text("ab ", min_size=1, max_size=8), st.text("ab ", max_size=8))
def test_character_error_rate_is_that_of_jiwer(reference, hypothesis):
    reference, hypothesis = f"a{reference}b", f"b{hypothesis}a"  # jiwer strips spaces
    theirs = jiwer.process_characters(reference, hypothesis)
    assert count_errors(reference, hypothesis).rate == pytest.approx(100 * theirs.cer)


def test_an_example_counted_by_hand():
    #            c  s    d  c   c    i
    reference = ["a", "b", "c", "d", "e"]
    hypothesis = ["a", "x", "d", "e", "f"]
    assert count_errors(reference, hypothesis) == Counts(
        sentences=1,
        wrong=1,
        units=5,
        correct=3,
        substitutions=1,
        deletions=1,
        insertions=1,
    )
    assert count_errors(reference, hypothesis).rate == 60.0


def test_an_empty_hypothesis_is_all_deletions(tmp_path):
    (tmp_path / "ref").write_text("u1 a b c\n")
    (tmp_path / "hyp").write_text("u1\n")
    found = score(tmp_path / "ref", tmp_path / "hyp", str.split)
    assert found["u1"] == Counts(sentences=1, wrong=1, units=3, deletions=3)
    by_character = score(tmp_path / "ref", tmp_path / "hyp", list)
    assert by_character["u1"] == Counts(sentences=1, wrong=1, units=5, deletions=5)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "message"),
    [
        ("u1 a\nu2 b\n", "u1 a\n", "/hyp lacks 1 of 2 utterances of .*/ref: u2"),
        ("u1 a\n", "u1 a\nu2 b\n", "/ref lacks 1 of 2 utterances of .*/hyp: u2"),
        ("u1 a\nu2 b\n", "u1 a\nu2 b\nu1 c\n", "/hyp:3 has the utterance 'u1' a sec"),
        ("u1 a\nu1 b\n", "u1 a\n", "/ref:2 has the utterance 'u1' a second time"),
        ("u1\nu2 \n", "u1 a\nu2 b\n", "none of the 2 transcripts of .*/ref has words"),
    ],
    ids=["missing", "extra", "doubled", "doubled-reference", "empty"],
)
def test_utterances_that_do_not_pair_up_are_refused_by_name(
    tmp_path, reference, hypothesis, message
):
    (tmp_path / "ref").write_text(reference)
    (tmp_path / "hyp").write_text(hypothesis)
    with pytest.raises(InputError, match=message):
        score(tmp_path / "ref", tmp_path / "hyp", str.split)


@given(st.lists(st.tuples(words.filter(bool), words), min_size=1, max_size=6))
def test_the_total_is_the_sum_of_the_utterances(tmp_path_factory, pairs):
    folder = tmp_path_factory.mktemp("score")
    counted = {f"u{i}": count_errors(ref, hyp) for i, (ref, hyp) in enumerate(pairs)}
    total = write_scores(folder, {"wer": counted}, PLAIN)["wer"]
    assert total.sentences == len(pairs)
    assert total.wrong == sum(ref != hyp for ref, hyp in pairs)
    assert total.units == sum(len(ref) for ref, _ in pairs)
    assert total.errors == sum(distance(ref, hyp) for ref, hyp in pairs)


# Hand-counted, in words: u1 has a substitution and an insertion, u2 is right, u3 lacks
# a word. In characters: u1 `ab cd` -> `ab ce f` substitutes d and inserts ` f`; u3
# `a b` -> `a` lacks ` b`.
REFERENCE = "u1 ab cd\nu2 a b c\nu3 a b\n"
HYPOTHESIS = "u3 a\nu1 ab ce f\nu2 a b c\n"
WORDS = Counts(3, 2, 7, 5, 1, 1, 1)
CHARACTERS = Counts(3, 2, 13, 10, 1, 2, 2)


@pytest.fixture
def scored(tmp_path):
    folder = tmp_path / "exp" / "system" / "greedy" / "test"
    folder.mkdir(parents=True)
    (tmp_path / "ref").write_text(REFERENCE)
    (folder / "text").write_text(HYPOTHESIS)
    score_command.main(["--ref", str(tmp_path / "ref"), "--hyp", str(folder / "text")])
    return folder


def test_the_command_writes_totals_and_utterances(scored):
    totals = json.loads((scored / "score.json").read_text())
    kept = {"wer", "cer", "normalization", "reference", "hypothesis"}
    assert totals.keys() == kept
    assert Counts(**totals["wer"]) == WORDS
    assert Counts(**totals["cer"]) == CHARACTERS
    assert (scored / "wer.tsv").read_text() == (
        "utterance\tsentences\twrong\tunits\tcorrect\tsubstitutions\tdeletions"
        "\tinsertions\n"
        "u1\t1\t1\t2\t1\t1\t0\t1\n"
        "u2\t1\t0\t3\t3\t0\t0\t0\n"
        "u3\t1\t1\t2\t1\t0\t1\t0\n"
    )
    rows = (scored / "cer.tsv").read_text().splitlines()
    assert rows[1:] == [
        "u1\t1\t1\t5\t4\t1\t0\t2",
        "u2\t1\t0\t5\t5\t0\t0\t0",
        "u3\t1\t1\t3\t1\t0\t2\t0",
    ]


def test_the_command_says_the_rates(scored, tmp_path, capsys):
    capsys.readouterr()
    flags = ["--ref", str(tmp_path / "ref"), "--hyp", str(scored / "text")]
    score_command.main([*flags, "--output_dir", str(tmp_path / "other")])
    assert capsys.readouterr().out.splitlines() == [
        "WER 42.86 % (3 of 7: 1 sub, 1 del, 1 ins)",
        "CER 38.46 % (5 of 13: 1 sub, 2 del, 2 ins)",
    ]
    written, known = (
        json.loads((folder / "score.json").read_text())
        for folder in (tmp_path / "other", scored)
    )
    assert known.pop("hypothesis")[0] == "text"
    assert written.pop("hypothesis")[0] == "../exp/system/greedy/test/text"
    assert written == known


def test_scores_of_texts_that_have_changed_since_are_refused(scored, tmp_path):
    other = scored.parents[2] / "other" / "greedy" / "test"
    flags = ["--ref", str(tmp_path / "ref"), "--hyp", str(scored / "text")]
    score_command.main([*flags, "--output_dir", str(other)])
    for folder in (scored, other):  # the text is beside the one, and not the other
        assert read_score(folder).totals["wer"] == WORDS
    table = ["--expdir", str(tmp_path / "exp")]
    compared = ["--system", str(scored), "--against", str(other)]
    first, *rest = REFERENCE.splitlines(keepends=True)
    (tmp_path / "ref").write_text("".join([*rest, first]))  # in another order
    score_command.main([*flags, "--output_dir", str(other)])
    results.main(table)
    compare_scores.main(compared)
    (tmp_path / "ref").write_text("".join([first.rstrip() + " ab\n", *rest]))
    score_command.main([*flags, "--output_dir", str(other)])
    with pytest.raises(InputError, match="scored against different transcripts"):
        results.main(table)
    with pytest.raises(InputError, match="scored against different transcripts"):
        compare_scores.main(compared)
    (scored / "text").write_text(HYPOTHESIS.replace("u2", "u2 ab"))
    for folder in (scored, other):
        with pytest.raises(InputError, match=r"test/text is another text than .*score"):
            read_score(folder)


def test_pieces_are_counted_where_a_bpe_model_is_given(scored, tmp_path):
    import sentencepiece

    from espnet_ctckd.bin import train_bpe

    write_scp(tmp_path / "text", [("u1", "ab cd a b c"), ("u2", "ab ce f")])
    flags = ["--text", str(tmp_path / "text"), "--output_dir", str(tmp_path)]
    train_bpe.main([*flags, "--vocab_size", "12"])
    flags = ["--ref", str(tmp_path / "ref"), "--hyp", str(scored / "text")]
    score_command.main([*flags, "--bpemodel", str(tmp_path / "bpe.model")])
    total = json.loads((scored / "score.json").read_text())["ter"]
    model = sentencepiece.SentencePieceProcessor(str(tmp_path / "bpe.model"))
    references = [line.split(maxsplit=1)[1] for line in REFERENCE.splitlines()]
    assert total["units"] == sum(map(len, model.encode(references)))
    assert total["wrong"] == 2


def test_the_table_has_the_columns_of_espnet_and_percentages(scored, tmp_path):
    scores = read_scores(tmp_path / "exp")
    assert results_table(scores, "wer") == (
        "### WER\n"
        "\n"
        "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|\n"
        "|---|---|---|---|---|---|---|---|---|\n"
        "|system/greedy/test|3|7|71.4|14.3|14.3|14.3|42.9|66.7|\n"
    )
    assert results_table(scores, "cer").splitlines()[-1] == (
        "|system/greedy/test|3|13|76.9|7.7|15.4|15.4|38.5|66.7|"
    )
    assert "test" not in results_table(scores, "ter")


def test_results_are_laid_out_for_the_readme_and_for_people(scored, tmp_path, capsys):
    (scored / "decode.json").write_text('{"parameters": 1234567, "rtf": 0.01234}')
    results.main(["--expdir", str(tmp_path / "exp"), "--command", "./run.sh"])
    page = (tmp_path / "exp" / "RESULTS.md").read_text()
    assert page.startswith("# RESULTS\n## Environments\n")
    assert "- command: `./run.sh`" in page
    scores = read_scores(tmp_path / "exp")
    assert results_table(scores, "wer") in page
    assert results_table(scores, "cer") in page
    assert "### TER" not in page
    capsys.readouterr()
    results.main(["--expdir", str(tmp_path / "exp"), "--table"])
    row = capsys.readouterr().out.splitlines()[-1].split()
    interval, row = row[3:6], row[:3] + row[6:]
    assert float(interval[0]) <= 42.9 <= float(interval[2])
    assert row == ["system", "test", "42.9", "38.5", "1.23", "M", "0.0123"]
    other = scored.parent.parent / "decode_lm/test"
    shutil.copytree(scored, other)
    results.main(["--expdir", str(tmp_path / "exp"), "--table"])
    head, _, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["system", "decoded", "set"]
    named = sorted(row.split()[:3] for row in rows)
    both = ("decode_lm", scored.parent.name)
    assert named == [["system", decoding, "test"] for decoding in both]
    (other / "decode.json").write_text('{"rtf":')
    with pytest.raises(InputError, match=r"decode.json is damaged .*: remove it"):
        results.main(["--expdir", str(tmp_path / "exp"), "--table"])


def test_a_folder_without_scores_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path} has no scores"):
        results.main(["--expdir", str(tmp_path)])


def test_the_bootstrap_interval_is_that_of_a_loop_and_holds_the_rate(tmp_path):
    errors, units = [0, 2, 1, 0, 3, 1], [5, 4, 6, 3, 5, 7]
    counted = {
        f"u{i}": Counts(1, int(e > 0), n, n - e, e, 0, 0)
        for i, (e, n) in enumerate(zip(errors, units))
    }
    total = write_scores(tmp_path, {"wer": counted}, PLAIN)["wer"]
    low, high = bootstrap_interval([tmp_path / "wer.tsv"], draws=500)
    rates = []
    for row in np.random.default_rng(0).integers(6, size=(500, 6)):
        rates.append(100 * sum(errors[i] for i in row) / sum(units[i] for i in row))
    assert low == pytest.approx(np.percentile(rates, 2.5))
    assert high == pytest.approx(np.percentile(rates, 97.5))
    assert low < total.rate < high


def test_the_interval_of_a_difference_is_that_of_the_same_utterances(tmp_path):
    units = [5, 4, 6, 3, 5, 7]
    wrong = {
        "a": [0, 2, 1, 0, 3, 1], "b": [1, 2, 2, 0, 3, 4], "c": [0, 2, 1, 1, 3, 1],
    }  # fmt: skip
    paths = {}
    for name, errors in wrong.items():
        (tmp_path / name).mkdir()
        counted = {
            f"u{i}": Counts(1, int(e > 0), n, n - e, e, 0, 0)
            for i, (e, n) in enumerate(zip(errors, units))
        }
        write_scores(tmp_path / name, {"wer": counted}, PLAIN)
        paths[name] = tmp_path / name / "wer.tsv"
    # Against itself there is no difference, in whatever utterances.
    assert bootstrap_interval([paths["a"]], [paths["a"]]) == (0.0, 0.0)
    low, high = bootstrap_interval([paths["a"], paths["c"]], [paths["b"]])
    rates = []
    for row in np.random.default_rng(0).integers(6, size=(1000, 6)):
        total = sum(units[i] for i in row)
        a, b, c = (100 * sum(wrong[n][i] for i in row) / total for n in "abc")
        rates.append((a + c) / 2 - b)
    assert low == pytest.approx(np.percentile(rates, 2.5))
    assert high == pytest.approx(np.percentile(rates, 97.5))
    other = {"other": Counts(1, 0, 5, 5, 0, 0, 0)}
    write_scores(tmp_path, {"wer": other}, PLAIN)
    with pytest.raises(InputError, match="are not of the same utterances"):
        bootstrap_interval([paths["a"]], [tmp_path / "wer.tsv"])


def test_what_is_normalized_is_so_in_both_texts_and_noted(scored, tmp_path, capsys):
    (tmp_path / "ref").write_text("u1 Ab, cd\nu2 a B c.\nu3 a b\n")
    flags = ["--ref", str(tmp_path / "ref"), "--hyp", str(scored / "text")]
    score_command.main([*flags, "--case", "upper", "--remove", ".,"])
    totals = json.loads((scored / "score.json").read_text())
    assert totals["normalization"] == "case upper, without '.,'"
    assert Counts(**totals["wer"]) == WORDS
    assert Counts(**totals["cer"]) == CHARACTERS
    # Next to one that was scored otherwise it is refused.
    other = tmp_path / "exp" / "other" / "greedy" / "test"
    score_command.main([*flags, "--output_dir", str(other)])
    with pytest.raises(InputError, match="texts were normalized in 2 ways"):
        results.main(["--expdir", str(tmp_path / "exp")])
    with pytest.raises(InputError, match="normalized in 2 ways"):
        compare_scores.main(["--system", str(scored), "--against", str(other)])


def test_a_text_of_which_nothing_is_left_is_refused(scored, tmp_path):
    (tmp_path / "ref").write_text("u1 .\nu2 ...\nu3 ..\n")
    flags = ["--ref", str(tmp_path / "ref"), "--hyp", str(scored / "text")]
    with pytest.raises(InputError, match=r"none of the 3 transcripts of .* has words"):
        score_command.main([*flags, "--remove", "."])


@pytest.mark.parametrize("flags", [[], ["--case", "lower"], ["--unicode", "keep"]])
def test_references_without_words_count_insertions_as_sclite_does(
    tmp_path, capsys, flags
):
    (tmp_path / "ref").write_text("u1 a b\nu2\nu3 c\nu4\n")
    (tmp_path / "text").write_text("u1 a b\nu2 x y\nu3\nu4\n")
    given = ["--ref", str(tmp_path / "ref"), "--hyp", str(tmp_path / "text"), *flags]
    score_command.main(given)
    printed = capsys.readouterr().out
    assert "WER 100.00 % (3 of 3: 0 sub, 1 del, 2 ins)" in printed
    assert "of 4 utterances, 2 have no words in the reference, and 2 none" in printed
    total = read_score(tmp_path).totals["wer"]
    assert total == Counts(4, 2, 3, 2, 0, 1, 2)
    low, high = bootstrap_interval([tmp_path / "wer.tsv"])
    assert 0 <= low <= 100 <= high


def words_alone(flags, reference, hypothesis, folder):
    (folder / "ref").write_text(f"u1 {reference}\n", encoding="utf-8")
    (folder / "hyp").write_text(f"u1 {hypothesis}\n", encoding="utf-8")
    given = ["--ref", str(folder / "ref"), "--hyp", str(folder / "hyp"), *flags]
    score_command.main(given)
    totals = read_score(folder).totals
    return totals["wer"].errors, totals["cer"].errors


def test_what_is_removed_leaves_nothing_behind(tmp_path):
    remove = ["--remove", "'-"]
    assert words_alone(remove, "don't go", "dont go", tmp_path) == (0, 0)
    assert words_alone(remove, "so - what", "so what", tmp_path) == (0, 0)
    assert words_alone(remove, "e-mail", "e mail", tmp_path) == (2, 1)


@pytest.mark.parametrize(
    "space", ["  ", "\t", "\u00a0", "\u3000", " \u2009 ", "\u2028", "\x0b", "\u0085"]
)
def test_white_space_of_any_kind_is_one_separator(tmp_path, space):
    texts = f"ab{space}cd{space}", "ab cd"
    for reference, hypothesis in (texts, texts[::-1]):
        assert words_alone([], reference, hypothesis, tmp_path) == (0, 0)


def test_forms_of_unicode_are_brought_together(tmp_path):
    composed, apart = "caf\u00e9 \u304c", "cafe\u0301 \u304b\u3099"
    for reference, hypothesis in ((composed, apart), (apart, composed)):
        assert words_alone([], reference, hypothesis, tmp_path) == (0, 0)
        keep = words_alone(["--unicode", "keep"], reference, hypothesis, tmp_path)
        assert keep[0] == 2
    wide = "\uff41\uff42 \uff11", "ab 1"
    assert words_alone([], *wide, tmp_path)[0] == 2
    assert words_alone(["--unicode", "nfkc"], *wide, tmp_path) == (0, 0)
    assert "unicode nfkc" in read_score(tmp_path).normalization


def test_what_is_removed_is_of_the_form_of_the_texts(tmp_path):
    # A shell may give an accent apart; that is no wish to remove its letter.
    apart = unicodedata.normalize("NFD", "\u00e9")
    assert Normalization(remove=apart)("\u00e9e e\u0301") == "e"
    assert Normalization(remove=apart, unicode="keep")("\u00e9e") == "\u00e9"
    assert Normalization(remove=".", unicode="nfkc")("a\uff0e\u2026b") == "ab"
    # White space stays a separator.
    assert Normalization(remove=". \u00a0,")("a, b .c") == "a b c"
    assert Normalization(case="lower")("\u0130") == unicodedata.normalize(
        "NFC", "\u0130".lower()
    )


@given(
    st.text("aB\u00e9e\u0301\uff21 .'\u00a0\u3000\t\u2028\u0085", max_size=9),
    st.sampled_from(["keep", "upper", "lower"]),
    st.sampled_from(["keep", "nfc", "nfkc"]),
    st.sampled_from(["", ".", "'. "]),
)
def test_what_is_normalized_stays_as_it_is(text, case, form, remove):
    normalization = Normalization(case, remove, form)
    once = normalization(text)
    assert normalization(once) == once
    assert once == " ".join(once.split(" ")) == once.strip()
    assert not {*once} & ({*remove} - {" "})
    expected = "".join(c for c in text if c not in remove or c.isspace())
    if form == "keep" and case == "keep":
        assert once.split() == expected.split()


def test_scores_of_when_removed_characters_left_blanks_are_not_mixed(scored, tmp_path):
    flags = ["--ref", str(tmp_path / "ref"), "--hyp", str(scored / "text")]
    other = scored.parent.parent / "other/test"
    score_command.main([*flags, "--remove", "'"])
    score_command.main([*flags, "--remove", "'", "--output_dir", str(other)])
    compare_scores.main(["--system", str(scored), "--against", str(other)])
    told = json.loads((other / "score.json").read_text())
    del told["scoring"]
    (other / "score.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match="each replaced by a blank"):
        compare_scores.main(["--system", str(scored), "--against", str(other)])


def test_draws_without_words_have_no_rate(tmp_path):
    counted = {
        "a": Counts(1, 1, 4, 2, 2, 0, 0), "b": Counts(1, 1, 0, 0, 0, 0, 3),
    }  # fmt: skip
    write_scores(tmp_path, {"wer": counted}, PLAIN)
    rates = []
    for row in np.random.default_rng(0).integers(2, size=(1000, 2)):
        units = sum((4, 0)[i] for i in row)
        if units:
            rates.append(100 * sum((2, 3)[i] for i in row) / units)
    assert len(rates) < 1000
    found = bootstrap_interval([tmp_path / "wer.tsv"])
    assert found == pytest.approx(tuple(np.percentile(rates, [2.5, 97.5])))


@pytest.mark.parametrize(
    ("reference", "advice"),
    [
        ("\uff21\uff22 \uff21", "with --case lower --unicode nfkc it is 0.0 %"),
        ("AB A", "with --case lower --unicode nfc it is 0.0 %"),
        ("\u00e9\u00e9 a", "66.7 % of all; are case, punctuation and Unicode form"),
    ],
)
def test_how_references_would_be_of_the_model_is_advised(
    tmp_path, reference, advice, caplog
):
    (tmp_path / "decode.json").write_text(json.dumps({"characters": "ab"}))
    words_alone([], reference, "ab a", tmp_path)
    (record,) = caplog.records
    assert advice in record.getMessage()


def test_accents_apart_among_the_tokens_spell_letters_with_them(tmp_path, caplog):
    tokens = ["<blank>", "e", "\u0301", "z", "<space>"]
    (tmp_path / "decode.json").write_text(
        json.dumps({"characters": spelled_by(tokens)})
    )
    words_alone([], "z\u00e9", "ze\u0301", tmp_path)
    assert not caplog.records
    # But not where nothing is composed.
    words_alone(["--unicode", "keep"], "z\u00e9", "ze\u0301", tmp_path)
    (record,) = caplog.records
    assert "with --case keep --unicode nfc it is 0.0 %" in record.getMessage()
    assert spelled_by(["\u0120the"], "whisper_multilingual") == ""


def test_characters_in_no_hypothesis_are_named_where_the_model_is_unknown(
    tmp_path, caplog
):
    words_alone([], "\uff21\uff22", "AB", tmp_path)
    (record,) = caplog.records
    assert "1 of 1 references have characters that are in no hypothesis" in caplog.text
    assert "--unicode nfkc it is 0.0 %" in record.getMessage()
    caplog.clear()
    words_alone([], 200 * "a" + "b", "a", tmp_path)  # rare: it may be chance
    assert not caplog.records


@pytest.mark.parametrize(
    ("tokens", "reference", "warned"),
    [
        (["<blank>", "<space>", "a", "b"], "ab a", None),
        (["<blank>", "<space>", "a", "b"], "aB a", "'B'"),
        (["<blank>", "\u2581a", "b\u00e9"], "abe\u0301", None),
        (["<blank>", "\u2581a", "b"], "ab\u00e9 1", "'1', '\u00e9'"),
        (["<blank>", "<0x41>", "a"], "\u00e9", None),
    ],
)
def test_references_that_the_model_cannot_spell_are_named(
    tmp_path, tokens, reference, warned, caplog
):
    told = {"characters": spelled_by(tokens)}
    (tmp_path / "decode.json").write_text(json.dumps(told))
    words_alone([], reference, "a", tmp_path)
    if warned is None:
        assert not caplog.records
        return
    (record,) = caplog.records
    assert "1 of 1 references have characters that the model" in record.getMessage()
    assert warned in record.getMessage()
    assert "e.g. u1" in record.getMessage()


def test_speakers_are_summed(scored, tmp_path):
    (tmp_path / "utt2spk").write_text("u1 ann\nu2 bob\nu3 ann\n")
    flags = ["--ref", str(tmp_path / "ref"), "--hyp", str(scored / "text")]
    score_command.main([*flags, "--utt2spk", str(tmp_path / "utt2spk")])
    assert (scored / "wer.speakers.tsv").read_text().splitlines()[1:] == [
        "ann\t2\t2\t4\t2\t1\t1\t1",
        "bob\t1\t0\t3\t3\t0\t0\t0",
    ]
    (tmp_path / "utt2spk").write_text("u1 ann\nu2 bob\n")
    with pytest.raises(InputError, match="has no speaker of u3"):
        score_command.main([*flags, "--utt2spk", str(tmp_path / "utt2spk")])


def test_two_systems_are_compared_on_the_same_utterances(scored, tmp_path, capsys):
    better = scored.with_name("better")
    better.mkdir()
    (better / "text").write_text(REFERENCE)
    flags = ["--ref", str(tmp_path / "ref"), "--hyp", str(better / "text")]
    score_command.main(flags)
    capsys.readouterr()
    systems = ["--system", str(scored), str(better), "--against", str(better)]
    compare_scores.main(systems)
    first, second, difference = capsys.readouterr().out.splitlines()
    assert first.split()[:4] == ["21.43", "%", "(42.9", "0.0)"]
    assert second.split()[:3] == ["0.00", "%", "(0.0)"]
    low, high = bootstrap_interval(
        [scored / "wer.tsv", better / "wer.tsv"], [better / "wer.tsv"]
    )
    assert difference.startswith(f"difference {low:+.2f} to {high:+.2f} points")
    assert difference.endswith(
        "within noise" if low <= 0 <= high else "more than noise"
    )
    compare_scores.main(["--system", str(better), "--against", str(better)])
    assert capsys.readouterr().out.endswith(
        "+0.00 to +0.00 points (95 %): within noise\n"
    )
    with pytest.raises(InputError, match="nowhere has no scores"):
        compare_scores.main(["--system", str(scored), "--against", "nowhere"])
