"""The recipes: scripts that parse, configurations that build, and one short run."""

import gzip
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import warm
import yaml

from espnet_ctckd.bin import check_config
from espnet_ctckd.data.kaldi import read_scp, write_scp

ROOT = Path(__file__).parent.parent
SCRIPTS = sorted([*ROOT.glob("egs/TEMPLATE/kd/**/*.sh"), *ROOT.glob("egs/*/kd/*.sh")])
SCRIPTS += sorted([*ROOT.glob("egs/*/kd/local/*.sh"), *ROOT.glob("tools/*.sh")])
TEMPLATE_GUIDE = ROOT / "egs/TEMPLATE/kd/README.md"
METHODS = sorted(ROOT.glob("conf/kd/*.yaml"))
CONFIGS = sorted([*ROOT.glob("conf/*.yaml"), *ROOT.glob("egs/*/kd/conf/*.yaml")])
# That one needs a model of the hub; test_teachers.py trains by it.
CONFIGS = [c for c in CONFIGS if "hubert" not in c.name and "decode" not in c.name]

SHORT = """
. utils/students.sh
conf=../../../conf
student labels ${conf}/train_student_ctckd_small.yaml \\
    "--max_epoch 1 --model_conf kd.teacher.mode=online"
student free ${conf}/train_student_ctckd_small.yaml \\
    "--max_epoch 1 --model_conf kd.weight=1" "--unlabeled_set unlabeled"
student lists ${conf}/train_student_ctckd_small.yaml \\
    "--max_epoch 1 --model_conf kd=${conf}/lists.yaml"
distil --train_set train --valid_set valid --test_sets test --lang en \\
    --token_type bpe --nbpe 30 --teacher_config ${conf}/train_teacher_ctc_small.yaml \\
    --teacher_max_wer 1000 --teacher_args "--max_epoch 1" \\
    --speed_perturb_factors "1.0 1.1" \\
    --local_data_opts "--num_train 24 --train_speakers 4 --num_valid 4 \\
    --valid_speakers 2 --num_test 6 --test_speakers 2 --num_unlabeled 6 \\
    --unlabeled_speakers 2" --ngpu 0 --nj 2 "$@"
"""


def shell(folder, *command):
    first = f"{Path(warm.python()).parent}:{Path(sys.executable).parent}"
    env = {**os.environ, "PATH": f"{first}:{os.environ['PATH']}"}
    return subprocess.run(
        ["bash", *map(str, command)],
        cwd=folder,
        env={**env, "VIRTUAL_ENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_scripts_parse(script):
    assert shell(ROOT, "-n", script).stderr == ""


@pytest.mark.parametrize("config", CONFIGS, ids=lambda p: str(p.relative_to(ROOT)))
def test_configurations_build_a_model_and_are_listed_in_the_guide(config, capsys):
    check_config.main(["--config", str(config)])
    printed = capsys.readouterr().out
    assert "text=true" in printed
    assert ("teacher=true" in printed) == ("ctckd" in config.name)
    given = "\nnormalize:" in config.read_text()
    assert f"normalize={'given' if given else 'default'}\n" in printed
    assert f"`{config.relative_to(ROOT)}`" in TEMPLATE_GUIDE.read_text()


def test_a_language_model_is_fetched_once_and_whole(tmp_path):
    script = ROOT / "egs/librispeech/kd/local/download_lm.py"
    server, lm = tmp_path / "server", tmp_path / "lm"
    server.mkdir()
    arpa = b"\\data\\\nngram 1=1\n\n\\1-grams:\n-1 ONE\n\n\\end\\\n"
    (server / "librispeech-lexicon.txt").write_text("ONE W AH1 N\n")

    def fetch(packed):
        (server / "3-gram.arpa.gz").write_bytes(packed)
        flags = ["3-gram", "--download_dir", lm, "--url", server.as_uri()]
        return subprocess.run(
            [sys.executable, script, *flags],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    cut = fetch(gzip.compress(arpa)[:-9])
    assert cut.returncode != 0
    assert "Traceback" not in cut.stderr
    assert "got a failed download of " in cut.stderr
    assert [path.name for path in lm.iterdir()] == ["librispeech-lexicon.txt"]
    short = fetch(gzip.compress(arpa[:-7]))
    assert r"without \end\, expected it as its last line" in short.stderr
    (lm / "3-gram.arpa").unlink()
    assert fetch(gzip.compress(arpa)).returncode == 0
    assert (lm / "3-gram.arpa").read_bytes() == arpa
    assert "Downloading" not in fetch(b"").stdout


@pytest.mark.parametrize("flag", ["--normalize", "--normalize=global_mvn"])
def test_a_normalization_that_a_flag_gives_is_not_given_again(flag, capsys):
    config = ROOT / "conf/train_student_ctc_small.yaml"
    more = [flag] if "=" in flag else [flag, "global_mvn"]
    check_config.main(["--config", str(config), *more])
    assert "normalize=given\n" in capsys.readouterr().out


@pytest.mark.parametrize("method", METHODS, ids=lambda p: p.stem)
def test_methods_are_understood_and_listed_in_the_guide(method, capsys):
    config = ROOT / "conf/train_student_ctckd_small.yaml"
    flags = ["--config", str(config), "--model_conf", f"kd={method}"]
    if "inter:" in method.read_text():
        flags += ["--encoder_conf", "interctc_layer_idx=[1]"]
    check_config.main(flags)
    printed = capsys.readouterr().out
    assert ("text=true" in printed) == ("label_free" not in method.stem)
    without = ("self_distillation", "cr_ctc", "nbest", "nbest_label_free")
    assert ("teacher=true" in printed) == (method.stem not in without)
    assert f"`{method.name}`" in (ROOT / "conf/kd/README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--stage", "17"], 2, "no --stage 17"),
        (["--stage", "x"], 2, "no --stage x"),
        (["--no_such_flag", "1"], 1, "unknown option --no_such_flag"),
        (["--nj"], 1, "the option --nj needs a value"),
        (["--skip_train", "yes"], 1, "takes true or false"),
        (["--train_set", "t", "--valid-set", "v"], 2, "--test_sets is missing"),
        (["positional"], 2, "no positional arguments"),
        ([], 2, "--train_set is missing"),
    ],
)
def test_kd_sh_refuses_what_it_does_not_know(arguments, status, message):
    done = shell(ROOT / "egs/an4/kd", "kd.sh", *arguments)
    assert done.returncode == status
    assert message in done.stdout + done.stderr


def test_run_sh_refuses_an_unknown_stage():
    done = shell(ROOT / "egs/an4/kd", "run.sh", "--stage", "99")
    assert done.returncode == 2
    assert "there is no stage '99'" in done.stderr


def test_help_is_shown():
    done = shell(ROOT / "egs/an4/kd", "run.sh", "--help")
    assert done.returncode == 0
    assert "--teacher_top_k" in done.stdout


def test_jobs_run_in_parallel_and_a_failed_one_shows_its_log(tmp_path):
    run = ROOT / "egs/TEMPLATE/kd/utils/run.sh"
    log = tmp_path / "JOB.log"
    done = shell(
        tmp_path, run, "JOB=1:3", log, "sh", "-c", "echo job JOB; test JOB != 2"
    )
    assert done.returncode == 1
    assert "1 of 3 jobs failed" in done.stderr
    assert "job 2" in done.stderr
    assert "job 3" in (tmp_path / "3.log").read_text()


@pytest.fixture
def short_recipe(tmp_path):
    """A recipe on a few files, of which some cannot be used, to its stage 5."""
    for name in ("conf", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    folder = tmp_path / "egs/short/kd"
    (folder / "local").mkdir(parents=True)
    for name in ("kd.sh", "cmd.sh", "path.sh", "utils"):
        (folder / name).symlink_to(ROOT / "egs/TEMPLATE/kd" / name)
    audio = tiny.write_data(tmp_path / "audio", [1.0, 1.5, 0.9])
    wavs = audio.wavs()
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    for part in ("train", "valid", "test"):
        given = {f"{part}-{utt}": path for utt, path in wavs.items()}
        given[f"{part}-broken"] = str(tmp_path / "broken.wav")
        data = folder / "data" / part
        write_scp(data / "wav.scp", given.items())
        write_scp(data / "text", ((utt, "ab cd") for utt in given))
        write_scp(data / "utt2spk", ((utt, utt) for utt in given))
        write_scp(data / "spk2utt", ((utt, utt) for utt in given))
    (folder / "local/data.sh").write_text("set -e\n")
    (folder / "local/data.sh").chmod(0o755)

    def run(*more):
        return shell(
            folder, "kd.sh", "--train_set", "train", "--valid_set", "valid",
            "--test_sets", "test", "--ngpu", "0", "--nj", "2", "--token_type", "char",
            "--asr_config", "../../../conf/train_student_ctckd_small.yaml",
            "--teacher_config", "../../../conf/train_teacher_ctc_small.yaml",
            "--stage", "2", "--stop_stage", "5", *more,
        )  # fmt: skip

    return folder, run


def test_one_bad_file_of_a_set_leaves_the_training_and_stays_in_the_test(short_recipe):
    folder, run = short_recipe
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    for part in ("train", "valid"):
        kept = read_scp(folder / f"dump/raw/{part}/wav.scp")
        assert list(kept) == [f"{part}-utt{i:02d}" for i in range(3)]
        removed = read_scp(folder / f"dump/raw/{part}/removed")
        assert list(removed) == [f"{part}-broken"]
    assert "test-broken" in read_scp(folder / "dump/raw/org/test/wav.scp")
    assert "train-broken" in done.stdout
    assert "Stage 3: already finished" in run().stdout
    # None at all may be bad.
    done = run("--max_bad_share", "0")
    assert done.returncode == 1
    assert "1 of 4 utterances of data/train cannot be used" in done.stderr


@pytest.mark.parametrize(
    ("flags", "sets"),
    [
        (["--skip_train", "true"], ["train_sp", "valid", "test"]),
        (["--skip_train", "true", "--skip_teacher", "true"], ["valid", "test"]),
        (["--download_model", "x/y", "--teacher_config", ""], ["valid", "test"]),
        (
            [
                *("--skip_train", "true", "--skip_teacher", "true"),
                *("--unlabeled_set", "more", "--asr_args", "--model_conf kd.weight=1"),
            ],
            ["valid", "test"],
        ),
        (["--skip_data_prep", "true", "--stop_stage", "4"], []),
    ],
)
def test_what_is_skipped_needs_no_data_of_what_is_not_made(short_recipe, flags, sets):
    folder, run = short_recipe
    if "--skip_data_prep" in flags:
        shutil.rmtree(folder / "data")  # as where dump/ alone was brought here
    done = run("--speed_perturb_factors", "1.0 1.1", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {path.name for path in folder.glob("dump/raw/org/*")}
    assert found == set(sets)


@pytest.mark.parametrize(
    ("stage", "flags", "lacks"),
    [
        (5, [], "there is no dump/raw/train/text: run stage 4"),
        (6, [], "there is no dump/raw/train/wav.scp: run stage 4"),
        (7, [], "there is no dump/raw/train/wav.scp: run stage 4"),
        (9, ["--skip_teacher", "true"], "dump/raw/train/wav.scp: run stage 4"),
        (10, ["--skip_teacher", "true"], "train_char/tokens.txt: run stage 5"),
        (12, ["--skip_teacher", "true"], "there is no model to decode with: neither"),
    ],
)
def test_a_stage_names_what_an_earlier_one_should_have_made(
    short_recipe, stage, flags, lacks
):
    _, run = short_recipe
    done = run("--stage", str(stage), "--stop_stage", str(stage), *flags)
    assert done.returncode == 2
    assert lacks in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_what_a_student_cannot_be_trained_on_leaves_its_statistics(short_recipe):
    folder, run = short_recipe
    text = read_scp(folder / "data/train/text")
    write_scp(folder / "data/train/text", {**text, "train-utt01": "ab " * 30}.items())
    plain = ["--asr_config", "../../../conf/train_student_ctc_small.yaml"]
    plain += ["--skip_teacher", "true", "--stop_stage", "9"]
    done = run(*plain)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "removed train-utt01: 89 labels need 89 frames, and it has" in done.stdout
    (stats,) = folder.glob("exp/asr_stats_*")
    assert list(read_scp(stats / "train/speech_shape")) == [
        "train-utt00",
        "train-utt02",
    ]
    assert "Stage 9: already finished" in run(*plain).stdout


def test_a_language_model_that_cannot_be_read_stops_a_recipe_at_once(short_recipe):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    folder, run = short_recipe
    arpa = b"\\data\\\nngram 1=1\n\n\\1-grams:\n-1\tab\n\n\\end\\\n"
    (folder / "cut.arpa.gz").write_bytes(gzip.compress(arpa)[:-9])
    (folder / "lm.bin").write_bytes(
        b"mmap lm http://kheafield.com/code format version 5\n\x00"
    )
    for flags, message in (
        (["--lm", "cut.arpa.gz"], "gzip file that is damaged or cut short"),
        (["--lm", "lm.bin"], "whose words cannot be read"),
        (["--lm", "lm.bin", "--lexicon", "gone"], "there is no list of words gone"),
        (["--lm", "gone", "--stop_stage", "12"], "there is no language model gone"),
        (
            ["--lm", "local", "--stop_stage", "12"],
            "the language model local is a folder",
        ),
    ):
        done = run(*flags)
        assert done.returncode == 2
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not (folder / "dump").exists()
    (folder / "lm.arpa.gz").write_bytes(gzip.compress(arpa))
    for known in (False, True):
        done = run("--lm", "lm.arpa.gz", "--stop_stage", "2")
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("lm.arpa.gz can be read; 1 words" in done.stdout) != known


@pytest.mark.slow
def test_the_demo_runs_to_its_table_and_does_nothing_twice(tmp_path):
    for name in ("egs", "conf", "tools"):
        skip = shutil.ignore_patterns(
            "venv*", "data", "dump", "exp", "downloads", "log"
        )
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=skip)
    recipe = tmp_path / "egs/demo/kd"
    (recipe / "short.sh").write_text("set -euo pipefail\n" + SHORT)
    lists = yaml.safe_load((ROOT / "conf/kd/nbest_label_free.yaml").read_text())
    states = yaml.safe_load((ROOT / "conf/kd/feature_warmup.yaml").read_text())
    lists["feature"] = {**states["feature"], "weight": 1.0, "alone_epochs": 0}
    (tmp_path / "conf/lists.yaml").write_text(yaml.safe_dump(lists))
    done = shell(recipe, "short.sh")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    for system in ("asr_labels", "asr_free", "asr_lists"):
        assert (recipe / f"exp/{system}/export/model.pth").exists()
        assert f"{system} " in done.stdout
    assert "sp1.1-" in (recipe / "dump/raw/train_sp/wav.scp").read_text()
    told = (recipe / "exp/asr_lists/train.log").read_text()
    assert "loss_nbest=" in told
    assert "loss_feature=" in told
    online = (recipe / "exp/asr_labels/train.log").read_text()
    assert "teacher_seconds=" in online
    assert "export runs in each step" in online
    free = (recipe / "exp/asr_free/config.yaml").read_text()
    assert "train_sp_unlabeled" in free
    assert "dump/raw/train_sp_unlabeled/text" not in free
    assert (
        "|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|"
        in (recipe / "exp/RESULTS.md").read_text()
    )
    again = shell(recipe, "short.sh", "--stop_stage", "7")
    assert again.returncode == 0, again.stderr
    for stage in (1, 3, 4, 5, 6, 7):
        assert f"Stage {stage}: already finished" in again.stdout


@pytest.mark.parametrize("recipe", ["an4", "demo", "librispeech"])
def test_recipes_share_one_kd_sh(recipe):
    for name in ("kd.sh", "cmd.sh", "path.sh", "utils"):
        shared = ROOT / "egs/TEMPLATE/kd" / name
        here = ROOT / "egs" / recipe / "kd" / name
        assert here.is_symlink()
        assert here.resolve() == shared
