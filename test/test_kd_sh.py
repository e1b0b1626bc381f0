"""kd.sh: the table of its stages, finished work, words, and what a training shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
KD = ROOT / "egs/TEMPLATE/kd"
STAGES = re.findall(
    r'^add_stage (\d+) (\w+) (\w+) "(.+)"$',
    (KD / "stages/table.sh").read_text(),
    re.MULTILINE,
)


def bash(script, *arguments, cwd=ROOT / "egs/an4/kd"):
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script, "bash", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def stage_sh(script, *arguments, cwd):
    return bash(f". {KD}/utils/stage.sh\n{script}", *arguments, cwd=cwd)


def test_the_stages_are_numbered_and_each_has_a_file_with_its_function():
    assert [int(number) for number, *_ in STAGES] == list(range(len(STAGES)))
    files = {path.stem for path in (KD / "stages").glob("*.sh")} - {"table"}
    assert files == {function for _, function, *_ in STAGES}
    for function in files:
        assert f"\n{function}() {{\n" in (KD / f"stages/{function}.sh").read_text()


@pytest.mark.parametrize("recipe", ["an4", "demo", "librispeech"])
def test_the_help_lists_the_stages_of_the_table_and_what_skips_them(recipe):
    shown = bash("./kd.sh --help", cwd=ROOT / "egs" / recipe / "kd").stdout
    listed = re.findall(r"^ {4}([ \d]\d)  (.+)$", shown, re.MULTILINE)
    assert [(int(n), name) for n, name in listed] == [
        (int(n), name) for n, _, _, name in STAGES
    ]
    for group in {group for _, _, group, _ in STAGES} - {"training"}:
        numbers = [int(n) for n, _, of, _ in STAGES if of == group]
        found = re.search(rf"--skip_{group} +# Skip stages? (\d+)(?:-(\d+))?", shown)
        assert found is not None
        assert int(found[1]) == numbers[0]
        assert int(found[2] or found[1]) == numbers[-1]
    assert f'(default="0", "{STAGES[-1][0]}")' in shown


@pytest.mark.parametrize("script", ["./kd.sh", "./run.sh"])
@pytest.mark.parametrize("option", ["--stage", "--stop_stage"])
@pytest.mark.parametrize(
    "value", [str(len(STAGES)), "-1", "01", "x", "99999999999999999999"]
)
def test_a_stage_outside_of_the_table_is_refused(script, option, value):
    done = bash(f'{script} {option} "$1"', value)
    assert done.returncode == 2
    assert f"give one from 0 to {STAGES[-1][0]}" in done.stderr


def test_every_option_is_in_the_help_and_every_one_of_the_help_is_an_option():
    text = (KD / "kd.sh").read_text()
    head = text[text.index("# General\n") : text.index("help_message=")]
    options = set(re.findall(r"^([a-z]\w*)=", head, re.MULTILINE))
    shown = bash("./kd.sh --help").stdout
    named = set()
    for line in re.findall(r"^ {4}(--.*)$", shown, re.MULTILINE):
        named |= set(re.findall(r"--(\w+)", line.split("#")[0]))
    assert options == named


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("", []),
        ("  --a  b\n--c ", ["--a", "b", "--c"]),
        (
            "--model_conf kd={base: a/b.yaml, weight: 0.25} --max_epoch 1",
            ["--model_conf", "kd={base: a/b.yaml, weight: 0.25}", "--max_epoch", "1"],
        ),
        ("--x kd={a: {b: [1, 2]}, c: 'd e'}", ["--x", "kd={a: {b: [1, 2]}, c: 'd e'}"]),
        ("--an4 '/my data/an4' --b=\"c d\"", ["--an4", "/my data/an4", "--b=c d"]),
        ("--remove .,?!' *", ["--remove", ".,?!'", "*"]),
        ("'' kd.selector_conf={}", ["", "kd.selector_conf={}"]),
    ],
)
def test_flags_are_divided_outside_of_brackets_and_quotes(flags, words, tmp_path):
    script = (
        'words found "$1"\nfor word in "${found[@]}"; do printf "%s\\0" "${word}"; done'
    )
    done = stage_sh(script, flags, cwd=tmp_path)
    assert done.stderr == ""
    assert done.stdout.split("\0")[:-1] == words


def test_a_quoted_command_line_runs_as_it_was_given(tmp_path):
    line = ["--m", "kd={a: b}", "it's", "", "a.yaml,text,text", "$HOME *", "{}"]
    found = stage_sh('quoted "$@"', *line, cwd=tmp_path).stdout
    assert found.startswith("--m ")
    assert " a.yaml,text,text " in found
    assert bash(f"printf '%s\\n' {found}").stdout.split("\n")[:-1] == line


@pytest.mark.parametrize("flags", ["kd={a: b", "--x 'a b"])
def test_a_bracket_that_is_not_closed_is_refused(flags, tmp_path):
    done = stage_sh('words found "$1"', flags, cwd=tmp_path)
    assert done.returncode == 2
    assert "a bracket or quote is not closed in" in done.stderr


def test_once_runs_again_only_with_another_key_and_leaves_no_marker_of_a_failure(
    tmp_path,
):
    script = """
    work() { echo "working $1"; false_if_asked; }
    false_if_asked() { if [ -f fail ]; then ls missing; echo "went on"; fi; }
    once out/.done.stage3 "$1" -- work "$1"
    """
    first = stage_sh(script, "one two", cwd=tmp_path)
    assert "working one two" in first.stdout
    assert (tmp_path / "out/.done.stage3").read_text() == "one two"
    again = stage_sh(script, "one two", cwd=tmp_path)
    assert "working" not in again.stdout
    assert "Stage 3: already finished; remove out/.done.stage3" in again.stdout
    (tmp_path / "fail").touch()
    failed = stage_sh(script, "three", cwd=tmp_path)
    assert failed.returncode != 0
    assert "Stage 3: the options have changed; doing it again" in failed.stdout
    assert "went on" not in failed.stdout
    assert not (tmp_path / "out/.done.stage3").exists()


def test_notices_of_libraries_stay_in_the_log(tmp_path):
    noise = [
        "[nltk_data] Error loading cmudict: <urlopen error>",
        "Failed to import Flash Attention, using ESPnet default: No module",
        "UserWarning: CUDA initialization: Found no NVIDIA driver",
        "2026-01-01 00:00:00,000 (espnet_model:186) WARNING: "
        "Set decoder to none as ctc_weight==1.0",
    ]
    script = """
    speak() {
        printf '%s\\n' "$@" "3 tokens"
        printf '%s\\n' "$@" "2026-01-01 00:00:00,000 (score:2) WARNING: no text" >&2
    }
    shown log/speak.log speak "$@"
    """
    done = stage_sh(script, *noise, cwd=tmp_path)
    assert done.stdout.splitlines() == ["3 tokens", "warning: no text"]
    assert done.stderr == ""
    log = (tmp_path / "log/speak.log").read_text()
    assert all(log.count(line) == 2 for line in noise)


def test_a_failed_command_shows_its_error_alone(tmp_path):
    script = """
    fail() { echo "[nltk_data] noise" >&2; printf '%s\\n' "$1" >&2; return 3; }
    shown log/fail.log fail "$1"
    """
    done = stage_sh(script, "error: no such file x", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: no such file x\n"
    done = stage_sh(script, "RuntimeError: bad", cwd=tmp_path)
    assert "The end of log/fail.log:\n    RuntimeError: bad\n" in done.stderr


LOG = """\
# Started at Thu
{day} 09:00:00,000 (trainer:336) INFO: 1/12epoch started
{day} 11:00:00,000 (trainer:394) INFO: 1epoch results: [train] loss_ctc=86.9, \
loss=114.491, time=2 hours and 11.68 seconds, total_count=70, [valid] cer_ctc=1.000, \
loss=78.578, time=2.35 seconds, total_count=9
{day} 11:00:00,000 (trainer:324) INFO: 2/12epoch started. Estimated time: 9 h
{day} 11:01:30,000 (trainer:394) INFO: 2epoch results: [train] loss=74.372, \
total_count=140, [valid] cer_ctc=0.921, loss=61.366, total_count=18
{day} 11:01:30,000 (trainer:324) INFO: 3/12epoch started. Estimated time: 9 h
{day} 11:03:00,000 (trainer:394) INFO: 3epoch results: [train] loss=nan, \
total_count=140, [valid] loss=61.366, total_count=18
{day} 11:03:00,000 (trainer:324) INFO: 12/12epoch started. Estimated time: 9 h
{day} 11:04:00,000 (trainer:394) INFO: 12epoch results: [train] loss=1.5, \
total_count=140, [valid] wer=0.250, loss=61.366, total_count=18
"""


def show_epochs(log, *command):
    script = KD / "utils/show_epochs.py"
    return subprocess.run(
        [sys.executable, script, "--log", log, "--", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_training_shows_a_line_an_epoch_of_its_own_run(tmp_path):
    log, new = tmp_path / "train.log", tmp_path / "new"
    log.write_text("old\n" + LOG.format(day="2025-01-01"))  # of a run before
    new.write_text(LOG.format(day="2026-01-01"))
    done = show_epochs(log, "sh", "-c", f"sleep 2; cat {new} >{log}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "epoch  1/12: loss 114.491, dev CER 100.0 %, 22 h 0 min left",
        "epoch  2/12: loss 74.372, dev CER 92.1 %, 10 h 7 min left",
        "epoch  3/12: loss nan, dev loss 61.366, 13 min left",
        "epoch 12/12: loss 1.5, dev WER 25.0 %",
    ]


def test_the_status_of_a_training_is_kept(tmp_path):
    done = show_epochs(tmp_path / "train.log", "sh", "-c", "echo out --flag; exit 3")
    assert done.returncode == 3
    assert done.stdout == "out --flag\n"
