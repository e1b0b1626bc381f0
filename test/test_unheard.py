"""Sets with utterances that cannot be heard, or have no words: none is left out."""

import json
import shutil

import jiwer
import numpy as np
import pytest
import soundfile
import tiny

from espnet_ctckd.bin import (
    bench_search,
    compare_scores,
    decode,
    dump_teacher,
    prove_teacher,
    report,
    results,
    score,
    tune_decoding,
)
from espnet_ctckd.data.kaldi import read_scp
from espnet_ctckd.evaluation.score import read_score

SHORT = ("short", "none")
UNUSABLE = ("gone", "noise", "nan")
WORDLESS = ("utt01", "short", "noise")


@pytest.fixture(scope="module")
def hard_data(tmp_path_factory, tiny_data):
    """The tiny data, and what is too short or unusable; three have no words."""
    folder = tmp_path_factory.mktemp("hard")
    paths = {name: folder / f"{name}.wav" for name in (*SHORT, *UNUSABLE)}
    soundfile.write(paths["short"], tiny.sound(0.1, 0)[:700], tiny.RATE)
    soundfile.write(paths["none"], np.zeros(0), tiny.RATE)
    paths["noise"].write_bytes(b"no audio")
    nan = tiny.sound(0.6, 1)
    nan[100] = np.nan  # which no header tells
    soundfile.write(paths["nan"], nan, tiny.RATE, "FLOAT")
    wavs = {**tiny_data.wavs(), **{name: str(path) for name, path in paths.items()}}
    data = tiny_data.copy(folder / "data", wavs)
    text = {**read_scp(tiny_data.text), **dict.fromkeys(paths, "ab d")}
    text.update(dict.fromkeys(WORDLESS, ""))
    data.text.write_text("".join(f"{utt} {words}\n" for utt, words in text.items()))
    return data


def flags_of(model, data, *more):
    flags = ["--asr_train_config", model.config, "--asr_model_file", model.weights]
    return [*flags, "--wav_scp", data.wav_scp, *more]


@pytest.fixture(scope="module")
def decoded(tmp_path_factory, tiny_model, hard_data):
    """An experiments folder with two exported models, decoded and scored."""
    exp = tmp_path_factory.mktemp("experiments") / "exp"
    for name in ("teacher_a", "asr_b"):
        export, out = exp / name / "export", exp / name / "decode/test"
        export.mkdir(parents=True)
        shutil.copy(tiny_model.config, export / "config.yaml")
        shutil.copy(tiny_model.weights, export / "model.pth")
        flags = flags_of(tiny_model, hard_data, "--max_bad_share", 40)
        assert tiny.call(decode, *flags, "--output_dir", out)[0] == 0
        given = ["--ref", hard_data.text, "--hyp", out / "text"]
        assert tiny.call(score, *given)[0] == 0
    return exp


METHODS = {
    "greedy": [],
    "prefix_beam": ["--nbest", 2, "--search_processes", 2],
    "lexicon": ["--nbest", 2],
}


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_heard_is_an_empty_hypothesis_and_changes_no_other(
    tmp_path, tiny_model, tiny_data, hard_data, method, caplog
):
    caplog.set_level("WARNING")
    more = ["--method", method, "--ctm", *METHODS[method]]
    if method == "lexicon":
        pytest.importorskip("flashlight.lib.text")
        (tmp_path / "lexicon").write_text("ab a b\ncd c d\n")
        more += ["--lexicon", tmp_path / "lexicon"]
    for data, out, share in ((tiny_data, "easy", 0), (hard_data, "hard", 40)):
        caplog.clear()
        flags = flags_of(tiny_model, data, "--output_dir", tmp_path / out, *more)
        status, stderr = tiny.call(decode, *flags, "--max_bad_share", share)
        assert status == 0, stderr
    empty = {*SHORT, *UNUSABLE}
    for name in ("text", "token", *(["nbest"] if method != "greedy" else [])):
        easy, hard = (read_scp(tmp_path / out / name) for out in ("easy", "hard"))
        assert set(hard) == {*easy, *empty}
        assert {utt: hard[utt] for utt in easy} == easy
        lines = {hard[utt] for utt in empty}
        assert lines == {'[[0.0, ""]]' if name == "nbest" else ""}
    assert (tmp_path / "easy/ctm").read_text() == (tmp_path / "hard/ctm").read_text()
    told = [
        json.loads((tmp_path / o / "decode.json").read_text()) for o in ("easy", "hard")
    ]
    assert [(t["utterances"], t["too_short"], t["unusable"]) for t in told] == [
        (4, 0, 0),
        (4, 2, 3),
    ]
    assert told[0]["audio_seconds"] == told[1]["audio_seconds"]
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    for utt in UNUSABLE:
        assert len([w for w in warned if w.startswith(f"utterance {utt}: ")]) == 1
    assert any(
        "2 of 9 utterances are too short" in w and w.endswith("short, none")
        for w in warned
    )


def test_too_much_that_cannot_be_heard_is_refused_and_named(
    tmp_path, tiny_model, hard_data
):
    # Found by the headers, all at once; then behind them.
    for share, count in ((0, 2), (1, 2), (30, 3)):
        flags = flags_of(tiny_model, hard_data, "--output_dir", tmp_path / "out")
        status, stderr = tiny.call(decode, *flags, "--max_bad_share", share)
        assert status == 1
        error = tiny.the_error(stderr)
        assert f"{count} of 9 utterances of {hard_data.wav_scp} cannot be used" in error
        for utt in UNUSABLE[:count]:
            assert f"utterance {utt}: " in error
        assert not (tmp_path / "out/text").exists()


def test_a_set_that_cannot_be_heard_at_all_is_decoded(tmp_path, tiny_model, hard_data):
    wavs = {utt: hard_data.wavs()[utt] for utt in SHORT}
    data = hard_data.copy(tmp_path / "data", wavs)
    for method in ("greedy", "prefix_beam"):
        flags = flags_of(tiny_model, data, "--output_dir", tmp_path / method, "--ctm")
        assert tiny.call(decode, *flags, "--method", method)[0] == 0
        assert read_scp(tmp_path / method / "text") == dict.fromkeys(SHORT, "")
        assert json.loads((tmp_path / method / "decode.json").read_text())["rtf"] == 0


@pytest.mark.parametrize("share", [1, 100])
def test_a_set_whose_audio_is_all_unusable_is_refused(
    tmp_path, tiny_model, hard_data, share
):
    data = hard_data.copy(tmp_path / "data", {"nan": hard_data.wavs()["nan"]})
    flags = flags_of(tiny_model, data, "--output_dir", tmp_path / "out")
    status, stderr = tiny.call(decode, *flags, "--max_bad_share", share)
    assert status == 1
    error = tiny.the_error(stderr)
    assert f"none of 1 utterances of {data.wav_scp} can be used: nan: " in error
    assert not (tmp_path / "out/text").exists()


def test_progress_ends_at_the_whole_list(tmp_path, tiny_model, hard_data, caplog):
    caplog.set_level("INFO")
    flags = flags_of(tiny_model, hard_data, "--output_dir", tmp_path / "out")
    status, stderr = tiny.call(decode, *flags, "--max_bad_share", 40)
    assert status == 0, stderr
    told = [r.getMessage() for r in caplog.records if " s left" in r.getMessage()]
    assert told[-1].startswith("9 of 9 utterances"), told


def test_a_teacher_names_all_that_it_cannot_hear(tmp_path, tiny_model, hard_data):
    flags = tiny.dump_args(tiny_model, hard_data, tmp_path / "cache")
    status, stderr = tiny.call(dump_teacher, *flags)
    assert status == 1
    error = tiny.the_error(stderr)
    assert (
        f"4 of 9 utterances of {hard_data.wav_scp}: gone, noise, short, none" in error
    )
    assert not (tmp_path / "cache/meta.json").exists()


def test_a_test_set_is_held_against_a_teacher_with_what_it_cannot_hear(
    tmp_path, tiny_model, hard_data
):
    # What is damaged behind its header is found when it is read, and refused then.
    wavs = {u: p for u, p in hard_data.wavs().items() if u != "nan"}
    data = hard_data.copy(tmp_path / "data", wavs)
    text = {u: t for u, t in read_scp(data.text).items() if u != "nan"}
    data.text.write_text("".join(f"{utt} {words}\n" for utt, words in text.items()))
    flags = tiny.dump_args(tiny_model, data, tmp_path / "cache", "--max_bad_share", 50)
    status, stderr = tiny.call(dump_teacher, *flags)
    assert status == 0, stderr
    flags = ["--cache", tmp_path / "cache", "--text", data.text]
    flags += ["--token_list", tiny_model.config.parent / "tokens.txt"]
    flags += ["--output_dir", tmp_path / "proof"]
    status, stderr = tiny.call(prove_teacher, *flags)
    assert status == 0, stderr
    assert len(read_scp(tmp_path / "cache/unheard")) == 4
    given = flags_of(tiny_model, data, "--output_dir", tmp_path / "out")
    assert tiny.call(decode, *given, "--max_bad_share", 40)[0] == 0
    assert read_scp(tmp_path / "proof/text") == read_scp(tmp_path / "out/text")
    assert read_score(tmp_path / "proof").totals["wer"].sentences == 8


def test_empty_references_and_hypotheses_are_counted(decoded, hard_data, capsys):
    out = decoded / "asr_b/decode/test"
    references, texts = read_scp(hard_data.text), read_scp(out / "text")
    assert tiny.call(score, "--ref", hard_data.text, "--hyp", out / "text")[0] == 0
    printed = capsys.readouterr().out
    empty = sum(not text for text in texts.values())
    assert f"of 9 utterances, 3 have no words in the reference, and {empty}" in printed
    totals = read_score(out).totals
    for unit, count in (
        ("wer", jiwer.process_words),
        ("cer", jiwer.process_characters),
    ):
        found = [count(references[utt], texts[utt]) for utt in references]
        theirs = [
            sum(getattr(each, name) for each in found)
            for name in ("hits", "substitutions", "deletions", "insertions")
        ]
        total = totals[unit]
        assert total.units == sum(theirs[:3])
        assert [
            total.correct, total.substitutions, total.deletions, total.insertions
        ] == theirs  # fmt: skip
        assert total.sentences == 9
        assert total.wrong == sum(references[u] != texts[u] for u in references)
        # As sclite: what is inserted where there are no words counts.
        alone = [u for u in WORDLESS if texts[u]]
        assert alone
        assert total.insertions >= sum(
            len(texts[u].split() if unit == "wer" else texts[u]) for u in alone
        )


def test_results_are_compared_and_laid_out(decoded, capsys):
    results.main(["--expdir", str(decoded)])
    results.main(["--expdir", str(decoded), "--table"])
    printed = capsys.readouterr().out
    wer = read_score(decoded / "asr_b/decode/test").totals["wer"].rate
    row = next(x for x in printed.splitlines() if x.startswith("asr_b"))
    assert f"{wer:.1f}" in row
    assert "nan" not in printed
    folders = [str(decoded / name / "decode/test") for name in ("asr_b", "teacher_a")]
    compare_scores.main(["--system", folders[0], "--against", folders[1]])
    assert "+0.00 to +0.00 points (95 %): within noise" in capsys.readouterr().out


def test_the_report_is_written(decoded, hard_data):
    data = decoded.parent / "data/test"
    data.mkdir(parents=True)
    shutil.copy(hard_data.wav_scp, data)
    shutil.copy(hard_data.text, data)
    # Damaged behind its header, and of another rate.
    whole = data.parent / "whole.flac"
    soundfile.write(whole, tiny.sound(1.0, 5), tiny.RATE)
    (data.parent / "cut.flac").write_bytes(whole.read_bytes()[:-100])
    soundfile.write(data.parent / "slow.wav", tiny.sound(1.0, 6), 8000)
    wavs = {**hard_data.wavs(), "utt01": str(data.parent / "cut.flac")}
    wavs["utt02"] = str(data.parent / "slow.wav")
    (data / "wav.scp").write_text("".join(f"{u} {p}\n" for u, p in wavs.items()))
    flags = [decoded, "--data", data.parent, "--teacher", decoded / "teacher_a"]
    status, stderr = tiny.call(report, *flags, "--utterances", 9)
    assert status == 0, stderr
    page = (decoded / "report.html").read_text(encoding="utf-8")
    assert "are too short for a frame" in page
    assert "cannot be used, so these are not drawn" in page
    for utt in (*UNUSABLE, "utt01"):
        assert utt in page.split("cannot be used, so these are not drawn")[1][:200]
    assert "have another sample rate than the models" in page


def test_a_search_is_tuned_with_what_cannot_be_heard(
    tmp_path, tiny_model, hard_data, capsys
):
    pytest.importorskip("flashlight.lib.text")
    (tmp_path / "lexicon").write_text("ab a b\ncd c d\n")
    flags = flags_of(tiny_model, hard_data, "--text", hard_data.text)
    flags += ["--method", "lexicon", "--lexicon", tmp_path / "lexicon"]
    flags += ["--word_scores", -2, 2, "--output", tmp_path / "best.yaml"]
    status, stderr = tiny.call(tune_decoding, *flags, "--max_bad_share", 40)
    assert status == 0, stderr
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    best = next(row for row in rows if "best" in row)
    given = ["--config", tmp_path / "best.yaml", "--output_dir", tmp_path / "out"]
    given += ["--max_bad_share", 40]
    assert tiny.call(decode, *flags_of(tiny_model, hard_data, *given))[0] == 0
    given = ["--ref", hard_data.text, "--hyp", tmp_path / "out/text"]
    assert tiny.call(score, *given)[0] == 0
    wer = read_score(tmp_path / "out").totals["wer"].rate
    assert float(best[3]) == pytest.approx(wer, abs=0.006)


@pytest.mark.parametrize("words", [False, True])
def test_searches_are_measured_with_what_cannot_be_heard(
    tmp_path, tiny_model, hard_data, capsys, caplog, words
):
    caplog.set_level("WARNING")  # and again after it, which raises the level
    flags = flags_of(tiny_model, hard_data, "--text", hard_data.text, "--beam", 4)
    flags += [
        "--rounds",
        1,
        "--max_bad_share",
        40,
        "--espnet_utterances",
        0 if words else 2,
    ]
    if words:
        pytest.importorskip("flashlight.lib.text")
        (tmp_path / "lexicon").write_text("ab a b\ncd c d\n")
        flags += ["--method", "lexicon", "--lexicon", tmp_path / "lexicon"]
    status, stderr = tiny.call(bench_search, *flags)
    assert status == 0, stderr
    printed = capsys.readouterr().out
    assert "9 utterances" in printed
    assert "nan" not in printed
