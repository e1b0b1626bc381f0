"""The plug-in adds one key to ESPnet and changes nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from espnet_ctckd.bin.python import split_arguments

CTCKD_PYTHON = Path(sys.executable).with_name("ctckd-python")

NEIGHBOURS = """
from espnet2.tasks import asr
import espnet2.train.trainer, espnet2.asr.espnet_model
def picture():
    choices = {c.name: dict(c.classes) for c in asr.ASRTask.class_choices_list}
    return choices, dict(vars(asr.ASRTask)), dict(vars(asr)), \\
        dict(vars(espnet2.asr.espnet_model.ESPnetASRModel)), \\
        dict(vars(espnet2.train.trainer.Trainer))
before = picture()
import espnet_ctckd, espnet_ctckd.plugin.task
espnet_ctckd.register()
espnet_ctckd.register()
after = picture()
assert after[0]["model"].pop("ctckd").__name__ == "ESPnetCTCKDModel"
after[0]["frontend"].pop("ctckd_huggingface")
after[0]["encoder"].pop("ctckd_skip_conformer")
assert after == before
asr.model_choices.classes["ctckd"] = int
try:
    espnet_ctckd.register()
except RuntimeError as error:
    assert "already taken by builtins.int" in str(error)
    print("collision refused")
"""

SPAWNED = """
import torch
from espnet2.tasks.asr import ASRTask, model_choices

def child(queue):
    from espnet2.tasks.asr import model_choices
    queue.put("ctckd" in model_choices.classes)

if __name__ == "__main__":
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    print("parent", "ctckd" in model_choices.classes, "child", queue.get())
    process.join()
"""


def run(*command, **kwargs):
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, **kwargs
    )


def test_neighbours_are_untouched_and_a_collision_raises():
    done = run(sys.executable, "-c", NEIGHBOURS)
    assert "collision refused" in done.stdout, done.stderr


def test_ctckd_python_registers_in_itself_and_in_spawned_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SPAWNED)
    done = run(CTCKD_PYTHON, "-u", script)
    assert "parent True child True" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-c", "import sys; print(sys.argv)", "a", "-b"], "['-c', 'a', '-b']"),
        (["-W", "error", "-c", "import sys; print(sys.warnoptions)"], "['error']"),
        (["-cprint(1)"], "1"),
        (["-m", "json.tool", "--help"], "usage:"),
    ],
)
def test_ctckd_python_behaves_as_python(arguments, expected):
    ours, stock = run(CTCKD_PYTHON, *arguments), run(sys.executable, *arguments)
    assert expected in ours.stdout
    assert (ours.stdout, ours.returncode) == (stock.stdout, stock.returncode)


def test_ctckd_python_hands_on_status_and_standard_input():
    assert run(CTCKD_PYTHON, "-c", "raise SystemExit(7)").returncode == 7
    assert run(CTCKD_PYTHON, "-", input="print(6 * 7)").stdout == "42\n"


def test_ctckd_python_without_espnet_does_not_import_it():
    code = "import sys; print('espnet2' in sys.modules, 'torch' in sys.modules)"
    assert run(CTCKD_PYTHON, "-c", code).stdout == "False False\n"


def test_command_lines_are_divided_where_the_program_begins():
    assert split_arguments(["-u", "-X", "dev", "-m", "a", "-m"]) == (
        ["-u", "-X", "dev"],
        ["-m", "a", "-m"],
    )
    assert split_arguments(["x.py", "-u"]) == ([], ["x.py", "-u"])


def test_the_stock_training_command_takes_every_flag_of_espnet():
    parsers = [
        run(CTCKD_PYTHON, "-m", "espnet2.bin.asr_train", "--help"),
        run(sys.executable, "-m", "espnet2.bin.asr_train", "--help"),
    ]
    flags = [
        {w.strip("[],") for w in p.stdout.split() if w.startswith(("--", "[--"))}
        for p in parsers
    ]
    assert len(flags[1]) > 150
    assert flags[0] == flags[1]
    assert os.access(CTCKD_PYTHON, os.X_OK)
