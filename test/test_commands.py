"""All commands: what they answer before anything heavy is imported, and their flags."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

import espnet_ctckd
from espnet_ctckd.bin import bench, copy_tokens, flags
from espnet_ctckd.bin.benches import BENCHES
from espnet_ctckd.bin.cli import naming
from espnet_ctckd.cache.codec import Codec
from espnet_ctckd.choices import InputError
from espnet_ctckd.decode.search import SearchConfig
from espnet_ctckd.teachers import TEACHER_CHOICES
from espnet_ctckd.teachers.precision import DTYPES

BIN = Path(espnet_ctckd.__file__).parent / "bin"
# `python` takes the flags of Python itself.
COMMANDS = sorted(
    {path.stem for path in BIN.glob("*.py")} - {"__init__", "cli", "flags", "python"}
)
HEAVY = (
    *("torch", "torchaudio", "espnet2", "espnet", "transformers", "kaldiio", "jiwer"),
    *("soundfile", "sentencepiece", "matplotlib", "jinja2", "tensorboard", "librosa"),
)
# Each command in a process without any of these: an import of one fails.
ASK = """
import contextlib, importlib, io, sys
from espnet_ctckd.bin.cli import run
for name in {heavy}:
    sys.modules[name] = None
for command in {commands}:
    main = importlib.import_module("espnet_ctckd.bin." + command).main
    for flags in (["--help"], *([flag] for flag in {wrong} if command != "asr_train")):
        sys.argv = [command, *flags]
        status, out, err = 0, io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                run(main)
            except SystemExit as end:
                status = end.code or 0
        print(command, *flags, status, "usage:" in out.getvalue() + err.getvalue())
"""


def test_help_and_wrong_flags_are_answered_before_anything_heavy_is_imported():
    code = ASK.format(heavy=HEAVY, commands=COMMANDS, wrong=["--no_such_flag"])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=BIN.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # ESPnet's own parser refuses the flags of asr_train.
    expected = []
    for command in COMMANDS:
        expected.append(f"{command} --help 0 True")
        if command != "asr_train":
            expected.append(f"{command} --no_such_flag 2 True")
    assert done.stdout.splitlines() == expected


def test_the_names_that_flags_offer_are_those_of_the_library():
    assert tuple(TEACHER_CHOICES) == flags.TEACHER_TYPES
    assert DTYPES == flags.DTYPES


def test_the_flags_of_a_search_have_the_defaults_of_its_configuration():
    defaults = {name: default for name, (_, default, _) in flags.SEARCH.items()}
    assert {"method": "greedy", **defaults} == vars(SearchConfig())
    for kind, default, _ in flags.SEARCH.values():
        assert default is None or type(default) is kind


def test_errors_of_the_library_name_the_flags_of_the_command(tmp_path):
    with (
        pytest.raises(InputError, match=r"^--top_k is 99; give one from 2 to 9; "),
        naming(kept="--top_k"),
    ):
        Codec(10, 99)
    flags = ["--teacher_type", "huggingface", "--output_dir", tmp_path]
    status, stderr = tiny.call(copy_tokens, *flags)
    assert status == 1
    assert tiny.the_error(stderr) == (
        "error: a teacher of the type huggingface needs a source (--teacher)"
    )


def test_other_words_in_an_error_of_the_library_stay():
    with pytest.raises(InputError) as error, naming(a="--b"):
        raise InputError("`a` and `c`, as `a c` has")
    assert str(error.value) == "--b and `c`, as `a c` has"


@pytest.mark.parametrize("what", BENCHES)
def test_each_benchmark_lists_its_own_flags(what, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--what", what, "--help"])
    printed = capsys.readouterr().out
    assert ("--teacher_type" in printed) == (what == "dump")
    assert ("--blank_collapse" in printed) == (what == "search")
    assert ("--thresholds" in printed) == (what == "skip")
    assert ("--online" in printed) == (what in ("train", "objective"))


@pytest.mark.parametrize("what", ["dump", "search", "skip"])
def test_the_former_names_of_the_benchmarks_are_deprecated_aliases(what, capsys):
    command = importlib.import_module(f"espnet_ctckd.bin.bench_{what}")
    with pytest.raises(SystemExit):
        command.main(["--help"])
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        f"warning: bench_{what} is deprecated until 0.4: call `bench --what {what}`"
    ]
    with pytest.raises(SystemExit):
        bench.main(["--what", what, "--help"])
    assert printed.out == capsys.readouterr().out


def test_the_former_name_of_the_benchmark_of_training_is_an_alias(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--what", "step", "--rounds", "0"])
    err = capsys.readouterr().err
    assert "warning: --what step is deprecated until 0.4: give --what train" in err
    assert "argument --rounds: 0 is not at least 1" in err


def test_a_benchmark_is_one_of_those_that_there_are(capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(["--what", "sleep"])
    assert end.value.code == 2
    assert "invalid choice: 'sleep'" in capsys.readouterr().err


def test_the_public_names_are_those_of_their_modules():
    for name, module in espnet_ctckd._EXPORTS.items():
        own = getattr(importlib.import_module(module), name)
        assert getattr(espnet_ctckd, name) is own
        assert name in dir(espnet_ctckd)
        assert name in espnet_ctckd.__all__
    with pytest.raises(AttributeError, match="has no attribute 'NONE_SUCH'"):
        _ = espnet_ctckd.NONE_SUCH


def test_importing_the_package_imports_neither_torch_nor_espnet():
    code = (
        "import sys, espnet_ctckd\n"
        "print('torch' in sys.modules, 'espnet2' in sys.modules)\n"
        "espnet_ctckd.LOSS_CHOICES['kl']\n"
        "print('torch' in sys.modules, 'espnet2' in sys.modules)\n"
        "from espnet_ctckd import SELECTOR_CHOICES, Choice\n"
        "print(type(SELECTOR_CHOICES['all']) is Choice)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=BIN.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    printed = done.stdout.splitlines()
    assert printed == ["False False", "True False", "True"], done.stderr
