"""The page: its numbers are those of the scores, and it works in a real browser."""

import base64
import contextlib
import html
import json
import math
import random
import re
import shutil
import time
import zlib

import numpy as np
import pytest
import soundfile
import tiny
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from test_train import flags

from espnet_ctckd.bin import (
    decode,
    dump_teacher,
    export_student,
    report,
    results,
    score,
)
from espnet_ctckd.data.kaldi import read_scp, write_scp
from espnet_ctckd.evaluation.experiments import read_curves
from espnet_ctckd.plugin.task import CTCKDTask
from espnet_ctckd.report.charts import densities, lines, ticks
from espnet_ctckd.report.utterances import diff

STUDENTS = {
    "asr_labels": {**tiny.KD, "selector": "symmetric", "selector_conf": {"n": 1}},
    "asr_</script><b>free": {
        **{**tiny.KD, "weight": 1.0, "selector": "all", "selector_conf": {}}
    },
}


def score_it(folder, data, text=None):
    """Decode, or take a text for it, and score."""
    out = folder / "decode_ctckd/test"
    out.mkdir(parents=True, exist_ok=True)
    if text is None:
        given = ["--asr_train_config", folder / "export/config.yaml"]
        given += ["--asr_model_file", folder / "export/model.pth"]
        given += ["--wav_scp", data.wav_scp, "--output_dir", out]
        assert tiny.call(decode, *given)[0] == 0
    else:
        (out / "text").write_text(text)
    given = ["--ref", data.text, "--hyp", out / "text"]
    assert tiny.call(score, *given)[0] == 0


@pytest.fixture(scope="module")
def experiments(tmp_path_factory, tiny_data, tiny_cache, tiny_model):
    """A teacher and two students, the text of one of them made up."""
    root = tmp_path_factory.mktemp("report")
    exp = root / "exp"
    folder = exp / "teacher_tiny"
    (folder / "export").mkdir(parents=True)
    shutil.copy(tiny_model.config, folder / "export/config.yaml")
    shutil.copy(tiny_model.weights, folder / "export/model.pth")
    score_it(folder, tiny_data)
    for name, kd in STUDENTS.items():
        run = root / f"run{len(list(root.iterdir()))}"
        command = flags(run, tiny_data, tiny_cache, kd, use_tensorboard=True)
        CTCKDTask.main(cmd=command)
        shutil.move(run / "exp", exp / re.sub("/", "", name))
    (labels, free) = sorted(exp.glob("asr_*"), key=lambda p: "free" in p.name)
    for folder in (labels, free):
        best = next(folder.glob("valid.*.ave.pth"))
        given = ["--asr_train_config", folder / "config.yaml", "--asr_model_file", best]
        assert (
            tiny.call(export_student, *given, "--output_dir", folder / "export")[0] == 0
        )
    score_it(labels, tiny_data)
    wrong = {u: t.replace("a", "b") for u, t in read_scp(tiny_data.text).items()}
    score_it(free, tiny_data, "".join(f"{u} {t}\n" for u, t in wrong.items()))
    test = root / "data/test"
    test.mkdir(parents=True)
    for name in ("wav_scp", "text"):
        path = getattr(tiny_data, name)
        shutil.copy(path, test / path.name)
    return exp


@pytest.fixture(scope="module")
def page(experiments):
    flags = [experiments, "--data", experiments.parent / "data", "--utterances", 3]
    status, stderr = tiny.call(report, *flags)
    assert status == 0, stderr
    return experiments / "report.html"


def data_of(page):
    found = re.search(
        r'<script type="text/plain" id="data">(.*?)</script>',
        page.read_text(encoding="utf-8"),
    )
    return json.loads(zlib.decompress(base64.b64decode(found.group(1))))


def test_its_numbers_are_those_of_the_results(experiments, page):
    results.main(["--expdir", str(experiments)])
    listed = (experiments / "RESULTS.md").read_text()
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"^\|(.*)/decode_ctckd/test\|(.*)\|$", listed, re.M)
    assert len(rows) == 6  # WER and CER of three
    for unit, part in (("wer", rows[:3]), ("cer", rows[3:])):
        for name, numbers in part:
            rate = numbers.split("|")[-2]
            cell = re.escape(escaped(name).replace("_", "_<wbr>"))
            whole = rf"<tr[^>]*><td[^>]*>{cell}</td>.*?</tr>"
            row = re.search(whole, text, re.S).group(0)
            assert f">{rate}<" in row, (unit, name)


@contextlib.contextmanager
def browser():
    """A headless Chromium, where there is one."""
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


def escaped(name):
    return name.replace("<", "&lt;").replace(">", "&gt;")


def test_curves_of_the_training_are_drawn_and_lie_in_tensorboard(experiments, page):
    text = page.read_text(encoding="utf-8")
    told = read_curves(experiments / "asr_labels" / "tensorboard")
    for name in ("cer_ctc", "loss_kd", "blank_student", "spikes_missed"):
        assert ("valid", name) in told
        assert f">{name}</text>" in text
    assert all(value >= 0 for _, value in told["valid", "spikes_missed"])


def test_names_from_files_are_text_and_nothing_is_fetched(page):
    text = page.read_text(encoding="utf-8")
    assert "<b>free" not in text
    assert "&lt;b&gt;free" in text
    assert text.count("</script>") == 2
    assert "http:" not in text
    assert "https:" not in text
    assert 'src="' not in text
    assert "url(" not in text


def test_the_worst_utterances_are_shown_first_with_all_that_belongs_to_them(
    page, tiny_data, experiments
):
    listed = data_of(page)
    references = read_scp(tiny_data.text)
    assert {u["name"] for u in listed} == references.keys()
    shown, others = listed[:3], listed[3:]
    assert all("audio" not in u and "heat" not in u for u in others)
    assert all(set(u["said"]) == set(u["systems"]) for u in listed)
    rates = [u["wrong"] for u in listed]
    assert rates == sorted(rates, reverse=True)
    for utterance in shown:
        assert utterance["reference"] == references[utterance["name"]]
        assert set(utterance["heat"]) == {
            p.name for p in experiments.iterdir() if p.is_dir()
        }
        assert utterance["audio"].startswith("data:audio/")
        assert utterance["tokens"][-1] == "<blank>"
        for heat in utterance["heat"].values():
            assert heat["rows"] == len(utterance["tokens"])
        assert set(utterance["selected"]) == {"symmetric, n 1", "all"}
        for system, said in utterance["said"].items():
            text = read_scp(experiments / system / "decode_ctckd/test/text")
            pairs = diff(utterance["reference"], text[utterance["name"]])
            assert said == [list(pair) for pair in pairs]


@given(
    st.lists(st.sampled_from("abc"), min_size=1, max_size=6),
    st.lists(st.sampled_from("abc"), max_size=6),
)
def test_a_diff_holds_both_texts(reference, hypothesis):
    pairs = diff(" ".join(reference), " ".join(hypothesis))
    right, wrong = [], []
    for kind, words in pairs:
        before, _, after = words.partition(" → ")
        right += [] if kind == "insert" else before.split()
        if kind != "delete":
            wrong += (after if kind == "substitute" else before).split()
    assert (right, wrong) == (reference, hypothesis)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low, size):
    found = ticks(low, low + size)
    room = 1e-6 * max(abs(low), size)
    assert all(low - room <= tick <= low + size + room for tick in found)
    assert len(found) <= 11


def test_charts_of_nothing_or_of_one_value_are_drawn():
    assert lines([], "x", "y") == ""
    assert lines([(0, "a", [(1, float("nan"))])], "x", "y") == ""
    gap = [(1.0, 2.0), (2.0, math.nan), (3.0, 1.0), (4.0, 1.0)]
    drawn = lines([(12, "a<b", gap)], "x", "y")
    path = re.search(r'class="line c2 d1" .* d="([^"]*)"', drawn).group(1)
    assert re.sub(r"[\d.,]+", "", path) == "MML"  # nothing between 1 and 3
    assert ticks(-0.3, 0.3) == [-0.2, 0.0, 0.2]
    assert "-0" not in map(str, ticks(-0.3, 0.3))
    assert "a<b" not in lines([(0, "a<b", [(1.0, 2.0)])], "x", "y")
    assert densities([(0, "a", [])], 0, 1, 4, "x") == ""
    # A quarter of them in the first bin, what is outside at the ends.
    drawn = densities([(3, "a<b", [-5, 0.6, 0.9, 7])], 0, 1, 2, "x")
    heights = [
        float(y) for _, y in re.findall(r"([\d.]+),([\d.]+)", drawn.split(" d=")[1])
    ]
    bottom, top = heights[0], min(heights)
    assert heights == pytest.approx(
        [bottom, *[bottom - (bottom - top) / 3] * 2, top, top, bottom], abs=0.2
    )
    assert 'class="line c3 d0" data-system="3"' in drawn


def test_a_cache_speaks_for_a_teacher_of_any_kind(
    experiments, page, tiny_cache, tiny_data, tmp_path
):
    for folder in experiments.iterdir():
        if folder.is_dir() and "free" not in folder.name:
            shutil.copytree(folder, tmp_path / "exp" / folder.name)
    teacher = tmp_path / "exp/teacher_tiny"
    shutil.rmtree(teacher / "export")
    (teacher / "spikes.test.json").unlink()
    caches = tmp_path / "caches"
    shutil.copytree(tiny_cache, caches / "test")
    scp = caches / "test/teacher.scp"
    scp.write_text(scp.read_text().replace(str(tiny_cache), str(caches / "test")))
    out = tmp_path / "page.html"
    flags = [tmp_path / "exp", "--data", experiments.parent / "data", "--output", out]
    status, stderr = tiny.call(report, *flags, "--teacher_cache", caches)
    assert status == 0, stderr
    told = json.loads((teacher / "spikes.test.json").read_text())["counts"]
    cached = tiny.read_cache(tiny_cache)
    assert told["frames"] == sum(len(c.log_probs) for c in cached.values())
    assert (told["missed"], told["inserted"]) == (0, 0)
    listed = data_of(out)
    assert {u["name"] for u in listed} == cached.keys()
    for utterance in listed:
        assert utterance["teacher"] == "teacher_tiny"
        columns = utterance["heat"]["teacher_tiny"]["columns"]
        assert columns == len(cached[utterance["name"]].log_probs)
        assert utterance["selected"]["symmetric, n 1"]["columns"] == columns
    # Audio that the teacher did not hear.
    data = tmp_path / "data/test"
    shutil.copytree(experiments.parent / "data/test", data)
    wavs = read_scp(data / "wav.scp")
    first, second, *_ = wavs
    wavs[first], wavs[second] = wavs[second], wavs[first]
    (data / "wav.scp").write_text("".join(f"{u} {p}\n" for u, p in wavs.items()))
    flags[2] = data.parent
    status, stderr = tiny.call(report, *flags, "--teacher_cache", caches)
    assert status == 1
    assert "is not the audio that the teacher" in tiny.the_error(stderr)


def test_a_student_of_other_tokens_is_in_the_tables_and_not_drawn(
    experiments, tiny_data, tmp_path
):
    shutil.copytree(experiments, tmp_path / "exp")
    config = tmp_path / "exp/asr_labels/export/config.yaml"
    conf = yaml.safe_load(config.read_text())
    conf["token_list"][3] = "œ"
    config.write_text(yaml.safe_dump(conf))
    flags = [tmp_path / "exp", "--data", experiments.parent / "data"]
    status, stderr = tiny.call(report, *flags)
    assert status == 0, stderr
    text = (tmp_path / "exp/report.html").read_text(encoding="utf-8")
    assert "asr_labels is not drawn: " in text
    for utterance in data_of(tmp_path / "exp/report.html"):
        assert "asr_labels" not in utterance["heat"]
        assert "asr_labels" in utterance["said"]


def test_without_data_the_page_says_what_is_missing(experiments, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert tiny.call(report, experiments, "--output", out)[0] == 0
    assert "No --data was given" in out.read_text()
    status, stderr = tiny.call(report, tmp_path)
    assert status == 1
    assert "no experiment with scores" in tiny.the_error(stderr)
    status, stderr = tiny.call(report, experiments, "--teacher", tmp_path / "no")
    assert "there is no folder" in tiny.the_error(stderr)


def test_damaged_and_doubled_folders_are_refused_by_name(experiments, tmp_path):
    def refused(change, *more):
        shutil.rmtree(tmp_path / "exp", ignore_errors=True)
        shutil.copytree(experiments, tmp_path / "exp")
        change(tmp_path / "exp/asr_labels/decode_ctckd/test")
        status, stderr = tiny.call(report, tmp_path / "exp", *more)
        assert status == 1
        return tiny.the_error(stderr)

    def lose_a_line(test):
        lines = (test / "wer.tsv").read_text().splitlines(keepends=True)
        (test / "wer.tsv").write_text("".join(lines[:-1]))

    assert "does not add up to what" in refused(lose_a_line)
    error = refused(lambda test: (test / "wer.tsv").unlink())
    assert "wer.tsv: score again" in error
    error = refused(lambda test: (test / "decode.json").write_text('{"rtf":'))
    assert "decode.json is damaged" in error
    error = refused(lambda test: None, experiments / "asr_labels")
    assert "have one name" in error
    error = refused(lambda test: (test / "text").write_text("utt01 ab\n"))
    assert "is another text than" in error
    error = refused(lambda test: None, "--data", tmp_path / "nowhere")
    assert "--data: there is no folder" in error
    places = ["--data", experiments.parent / "data", "--teacher_cache", tmp_path]
    assert "holds no <set>/meta.json" in refused(lambda test: None, *places)


def test_what_does_not_fit_is_noted_and_the_page_is_written(
    experiments, tiny_model, tiny_data, tmp_path
):
    exp, data, caches = tmp_path / "exp", tmp_path / "data", tmp_path / "caches"
    shutil.copytree(experiments, exp)
    shutil.copytree(experiments.parent / "data", data)

    def notes(*more):
        status, stderr = tiny.call(report, exp, "--data", data, *more)
        assert status == 0, stderr
        text = (exp / "report.html").read_text(encoding="utf-8")
        return html.unescape(text).replace("<wbr>", "")

    # Transcripts that differ, one audio file that is gone, one that is broken.
    text, scp = data / "test/text", data / "test/wav.scp"
    before = text.read_text()
    text.write_text(before.replace("a", "b"))
    assert f"{data}/test/text has other transcripts than {exp}/asr_labels" in notes()
    text.write_text(before + "more words that were left out\n")
    listed = scp.read_text()
    scp.write_text(listed + f"more {tmp_path / 'gone.wav'}\n")
    page = notes()
    assert "has other transcripts" not in page
    assert "asr_labels/decode_ctckd/test was scored on 4 of the 5 utterances" in page
    assert f"The audio of 1 of 5 utterances of {scp} cannot be used" in page
    text.write_text(before)
    wavs = read_scp(tiny_data.wav_scp)
    broken = {**wavs, "utt01": str(tmp_path / "gone.wav")}
    scp.write_text("".join(f"{u} {p}\n" for u, p in broken.items()))
    assert "these are not drawn: utt01." in notes()
    drawn = {u["name"]: "heat" in u for u in data_of(exp / "report.html")}
    assert drawn == {utt: utt != "utt01" for utt in wavs}
    scp.write_text(listed)
    # A set that is decoded and not scored.
    left = exp / "asr_labels/decode_ctckd/dev"
    left.mkdir()
    (left / "decode.json").write_text("{}")
    (left / "text").write_text("utt00 a\n")
    assert f"Decoded and not scored, so in no table: {left}." in notes()
    # The cache of another teacher, of the same tokens.
    states = torch.load(tiny_model.weights, weights_only=True)
    states["ctc.ctc_lo.bias"] += 0.1
    torch.save(states, tmp_path / "other.pth")
    other = tiny.Model(tiny_model.config, tmp_path / "other.pth")
    flags = tiny.dump_args(other, tiny_data, caches / "test")
    assert tiny.call(dump_teacher, *flags)[0] == 0
    page = notes("--teacher_cache", caches)
    assert "is of another teacher than these systems learned from" in page


def test_spikes_are_counted_again_where_their_file_is_damaged(experiments, tmp_path):
    shutil.copytree(experiments, tmp_path / "exp")
    given = [tmp_path / "exp", "--data", experiments.parent / "data"]
    assert tiny.call(report, *given)[0] == 0
    path = tmp_path / "exp/asr_labels/spikes.test.json"
    before = path.read_text()
    path.write_text(before[:30])
    assert tiny.call(report, *given)[0] == 0
    assert path.read_text() == before


def test_a_curve_that_is_negative_somewhere_is_not_cut():
    points = [(float(x), y) for x, y in enumerate([-3.0, -1.0, 0.0, 2.0])]
    (path,) = re.findall(r' d="([^"]*)"', lines([(0, "a", points)], "x", "y"))
    heights = [float(y) for y in re.findall(r",([\d.]+)", path)]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 4


def test_what_is_named_a_teacher_is_no_student_and_the_unfinished_are_named(
    experiments, tmp_path
):
    exp = tmp_path / "exp"
    shutil.copytree(experiments, exp)
    best = max(
        (path for path in exp.glob("asr_*") if path.is_dir()),
        key=lambda path: "free" in path.name,
    )
    best.rename(exp / "teacher_of_others")
    for name in ("asr_killed", "stats"):
        (exp / name).mkdir()
        (exp / name / "config.yaml").write_text("model: ctckd\n")
    (exp / "asr_killed/train.log").write_text("1epoch started\n")
    given = [exp, "--teacher", exp / "teacher_tiny"]
    assert tiny.call(report, *given)[0] == 0
    text = (exp / "report.html").read_text(encoding="utf-8")
    assert "the best student is asr_labels" in text
    assert "the teacher teacher_of_others has" in text
    assert "Left out, as they have no scores: asr_killed." in text


def test_a_browser_shows_it_sorts_it_and_asks_for_nothing(page, tmp_path):
    with browser() as opened:
        for scheme, width in (("light", 1200), ("dark", 400)):
            context = opened.new_context(
                color_scheme=scheme, viewport={"width": width, "height": 800}
            )
            tab = context.new_page()
            said, asked = [], []
            tab.on("console", lambda message, said=said: said.append(message.text))
            tab.on("pageerror", lambda error, said=said: said.append(str(error)))
            tab.on("request", lambda request, asked=asked: asked.append(request.url))
            tab.goto(page.as_uri())
            # No wider than the screen.
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            column = tab.locator("#results ~ div table").first
            place = column.locator("th").all_inner_texts().index("WER %")
            button = column.locator("th button").nth(place)
            for order in ("ascending", "descending"):
                button.click()
                cells = column.locator(f"tbody td:nth-child({place + 1})")
                rates = [float(text) for text in cells.all_inner_texts()]
                assert rates == sorted(rates, reverse=order == "descending")
                assert (
                    column.locator("th").nth(place).get_attribute("aria-sort") == order
                )
            tab.wait_for_selector("#view canvas")
            assert tab.locator("#view canvas").count() >= 5
            name = tab.locator("#utterance option").last.inner_text().split()[1]
            tab.fill("#filter", name)
            assert tab.locator("#utterance option").count() == 1
            assert tab.locator("#view audio").count() == 0
            tab.fill("#filter", "")
            first = tab.locator("#view .said").first.inner_text()
            tab.select_option("#utterance", "1")
            assert tab.locator("#view .said").first.inner_text() != first
            tab.wait_for_selector("#view canvas:not(.painted)", state="detached")
            assert tab.locator("#view canvas.painted").count() >= 5
            tab.locator("[data-toggle]").first.uncheck()
            assert tab.locator("path.hidden").count() > 0
            assert said == []
            assert [
                url for url in asked if not url.startswith(("file:", "data:"))
            ] == []
            context.close()


@pytest.mark.slow
def test_twenty_systems_and_3000_utterances_fit_on_a_page(experiments, tmp_path):
    """Speech of LibriSpeech's length, of which random weights say noise."""
    pytest.importorskip("playwright.sync_api")
    generator = random.Random(0)
    words = ["".join(generator.choices("abcd", k=5)) for _ in range(5000)]
    audio = [tmp_path / f"{i}.wav" for i in range(40)]
    for i, path in enumerate(audio):
        noise = np.random.default_rng(i).normal(0, 0.1, 15 * 16000)
        soundfile.write(path, noise, 16000)
    data, exp = tmp_path / "data/test", tmp_path / "exp"
    data.mkdir(parents=True)
    names = [f"speaker{i % 50:02d}-{i:05d}" for i in range(3000)]
    references = {name: generator.choices(words, k=35) for name in names}
    write_scp(data / "text", {u: " ".join(w) for u, w in references.items()}.items())
    write_scp(data / "wav.scp", {u: audio[i % 40] for i, u in enumerate(names)}.items())
    some = ["teacher_tiny", *(f"asr_{i:02d}" for i in range(19))]
    for name in some:
        origin = "teacher_tiny" if name == "teacher_tiny" else "asr_labels"
        shutil.copytree(experiments / origin, exp / name)
        out = exp / name / "decode_ctckd/test"
        said = {
            u: " ".join(w if generator.random() > 0.1 else "x" for w in right)
            for u, right in references.items()
        }
        write_scp(out / "text", said.items())
        tiny.call(score, "--ref", data / "text", "--hyp", out / "text")
    flags = [exp, "--data", data.parent, "--spike_utterances", 2]
    status, stderr = tiny.call(report, *flags)
    assert status == 0, stderr
    page = exp / "report.html"
    size = page.stat().st_size
    assert size < 15e6
    assert len(data_of(page)) == 3000
    told = f"{len(some)} systems, {len(names)} utterances: {size / 1e6:.1f} MB"
    with browser() as opened:
        tab = opened.new_page()
        begun = time.monotonic()
        tab.goto(page.as_uri())
        tab.wait_for_selector("#view canvas")
        tab.wait_for_selector("#view canvas:not(.painted)", state="detached")
        print(f"{told}, drawn after {time.monotonic() - begun:.1f} s")
