"""Data preparation and a cache on real speech, where it lies beside the project."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
import tiny

from espnet_ctckd.bin import check_cache, dump_teacher
from espnet_ctckd.data.kaldi import read_scp

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"


def corpus(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"there is no {name} in {DATA}")
    return DATA / name


@pytest.fixture
def recipe(tmp_path):
    """A folder like egs/<corpus>/kd, that may be written to."""

    def make(name):
        folder = tmp_path / "egs" / name / "kd"
        folder.mkdir(parents=True)
        for entry in ("local", "db.sh"):
            (folder / entry).symlink_to(ROOT / "egs" / name / "kd" / entry)
        (folder / "utils").symlink_to(ROOT / "egs/TEMPLATE/kd/utils")
        return folder

    return make


def prepare(folder, *options):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "local/data.sh", *map(str, options)],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def sets(folder, *names):
    return {name: read_scp(folder / "data" / name / "wav.scp") for name in names}


def speakers(folder, name):
    return set(read_scp(folder / "data" / name / "utt2spk").values())


def test_an4_is_prepared_with_disjoint_speakers(recipe):
    folder = recipe("an4")
    done = prepare(folder, "--an4", corpus("an4"))
    assert done.returncode == 0, done.stderr
    found = sets(folder, "train", "valid", "test")
    assert {name: len(wavs) for name, wavs in found.items()} == {
        "train": 849,
        "valid": 99,
        "test": 130,
    }
    train, valid, test = (speakers(folder, name) for name in found)
    assert not train & valid
    assert not (train | valid) & test
    texts = read_scp(folder / "data/test/text")
    assert texts["fcaw-an406-b"] == "RUBOUT G M E F THREE NINE"


def test_an4_is_taken_in_the_layout_of_its_sphere_archive(recipe, tmp_path):
    source, sphere = corpus("an4"), tmp_path / "archive/an4"
    wavs = []
    for part in ("train", "test"):
        for kind in ("fileids", "transcription"):
            lines = (source / f"etc/an4_{part}.{kind}").read_text().splitlines()[:30]
            target = sphere / f"etc/an4_{part}.{kind}"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text("".join(f"{line}\n" for line in lines))
            wavs += lines if kind == "fileids" else []
    for name in wavs:
        samples, rate = soundfile.read(source / "wav" / f"{name}.wav", dtype="int16")
        path = sphere / "wav" / f"{name}.sph"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate, "PCM_16", "BIG", "NIST")
    folder = recipe("an4")
    done = prepare(folder, "--an4", sphere.parent, "--dev_speakers", 1)
    assert done.returncode == 0, done.stderr
    found = sets(folder, "train", "valid", "test")
    assert sum(map(len, found.values())) == 60
    assert all(path.endswith(".sph") for path in found["test"].values())


def test_a_folder_without_an4_is_refused_in_one_line(recipe, tmp_path):
    done = prepare(recipe("an4"), "--an4", tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(tmp_path) in done.stderr


def test_librispeech_mini_and_untranscribed_audio_are_prepared(recipe):
    folder = recipe("librispeech")
    options = ["--mini", "true", "--librispeech", corpus("LibriSpeech")]
    done = prepare(folder, *options, "--unlabeled_set", corpus("untranscribed"))
    assert done.returncode == 0, done.stderr
    found = sets(folder, "train_mini", "dev_mini", "test_mini", "unlabeled")
    assert len(found["train_mini"]) + len(found["dev_mini"]) == 249
    assert len(found["test_mini"]) == 100
    assert len(found["unlabeled"]) == 200
    assert not (folder / "data/unlabeled/text").exists()


def test_a_transcript_without_audio_is_refused_by_name(recipe, tmp_path):
    source = corpus("LibriSpeech") / "train-clean-100"
    target = tmp_path / "LibriSpeech/train-clean-100"
    chapter = next(path for path in sorted(source.glob("*/*")) if path.is_dir())
    copied = target / chapter.relative_to(source)
    copied.mkdir(parents=True)
    for path in sorted(chapter.iterdir())[1:]:
        (copied / path.name).symlink_to(path)
    (tmp_path / "LibriSpeech/test-other").symlink_to(source.parent / "test-other")
    missing = sorted(chapter.glob("*.flac"))[0].stem
    done = prepare(
        recipe("librispeech"),
        "--mini",
        "true",
        "--librispeech",
        tmp_path / "LibriSpeech",
    )
    assert done.returncode == 1
    assert missing in done.stderr


def test_real_speech_is_dumped_and_checked(recipe, tmp_path, tiny_model, capsys):
    folder = recipe("librispeech")
    prepare(
        folder, "--mini", "true", "--librispeech", corpus("LibriSpeech")
    ).check_returncode()
    wavs = read_scp(folder / "data/test_mini/wav.scp")
    few = tmp_path / "few.scp"
    few.write_text("".join(f"{u} {p}\n" for u, p in list(wavs.items())[:8]))
    cache = tmp_path / "cache"
    flags = tiny.dump_args(tiny_model, tiny.Data(tmp_path), cache, "--top_k", 4)
    flags[flags.index("--wav_scp") + 1] = str(few)
    dump_teacher.main(flags)
    check_cache.main(["--cache", str(cache), "--wav_scp", str(few)])
    assert "fits: 8 utterances" in capsys.readouterr().out
