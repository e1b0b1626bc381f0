"""The README and the guides: what they name exists, and their examples run.

A fenced block of ``sh``, ``python`` or ``yaml`` is run or used as it stands, in the
order of its guide. Its info string may add ``norun`` (it needs a corpus, a network or
hours; its flags are checked all the same), ``file=<path>`` (it is the content of a
file, or what is added to a file of this repository) and ``needs=<module>`` (an extra).
"""

import ast
import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List

import pytest
import tiny
import torch
import yaml
from test_layers import CORE, LAYERS

from espnet_ctckd.bin.benches import BENCHES
from espnet_ctckd.config import KDConfig
from espnet_ctckd.data.kaldi import write_scp
from espnet_ctckd.losses import LOSS_CHOICES
from espnet_ctckd.reduce import REDUCTION_CHOICES
from espnet_ctckd.select import SELECTOR_CHOICES
from espnet_ctckd.teachers import TEACHER_CHOICES

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PACKAGE = ROOT / "espnet_ctckd/README.md"
TEMPLATE = ROOT / "egs/TEMPLATE/kd/README.md"
GUIDES = [
    README,
    *sorted(ROOT.glob("conf/**/README.md")),
    *sorted(ROOT.glob("espnet_ctckd/**/README.md")),
    *sorted(ROOT.glob("egs/*/kd/README.md")),
    ROOT / "tools/README.md",
]
COMMANDS = sorted(path.stem for path in ROOT.glob("espnet_ctckd/bin/[a-z]*.py"))
COMMANDS = [name for name in COMMANDS if name not in ("cli", "flags", "python")]
# Written by the reader, or by a command.
MADE = {
    *("conf/train_ctckd.yaml", "local/data.sh", "asr.sh", "./asr.sh", "both.yaml"),
    *("tools/venv", "config.yaml", "RESULTS.md", "decode.yaml", "my_teacher.py"),
}
ARPA = """\\data\\
ngram 1=5
ngram 2=1

\\1-grams:
-1\t<unk>\t0
-1\t<s>\t0
-1\t</s>\t0
-1\tda\t0
-1\tab\t0

\\2-grams:
-1\tda ab

\\end\\
"""

guides = pytest.mark.parametrize(
    "guide", GUIDES, ids=[str(path.relative_to(ROOT).parent) for path in GUIDES]
)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: first word of the info string.
        options: its other words; a word without ``=`` has an empty value.
        text: between the fences.
        line: of the opening fence, from 1.
    """

    language: str
    options: Dict[str, str]
    text: str
    line: int


def blocks_of(guide: Path) -> List[Block]:
    """The fenced blocks of a guide, in order."""
    text = guide.read_text(encoding="utf-8")
    found = []
    for match in re.finditer(r"^```(.*)\n((?s:.*?))^```$", text, re.MULTILINE):
        words = match[1].split()
        options = {
            key: value for key, _, value in (w.partition("=") for w in words[1:])
        }
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(words[0] if words else "", options, match[2], line))
    return found


def prose_of(guide: Path) -> str:
    """A guide without its fenced blocks."""
    text = guide.read_text(encoding="utf-8")
    return re.sub(r"^```(?s:.*?)^```$", "", text, flags=re.MULTILINE)


def test_the_readme_is_read_in_two_minutes():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 160


@guides
def test_blocks_have_a_language_and_known_options(guide):
    for block in blocks_of(guide):
        assert block.language in ("sh", "python", "yaml", "text"), block
        assert block.options.keys() <= {"norun", "file", "needs"}, block


# What is named


def slugs_of(guide: Path) -> List[str]:
    """The anchors of a guide's headings, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", prose_of(guide), re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in heads]


@guides
def test_links_lead_to_files_and_headings(guide):
    for target in re.findall(r"\]\(([^)]+)\)", prose_of(guide)):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        there = (guide.parent / path) if path else guide
        there = there / "README.md" if there.is_dir() else there
        assert there.is_file(), target
        if anchor:
            assert anchor in slugs_of(there), target


def named_files(guide: Path) -> Iterator[str]:
    """Words in backticks that are a file of this repository by their looks."""
    for code in re.findall(r"`([^`]+)`", prose_of(guide)):
        for word in code.split():
            word = word.strip(",:;")
            known = re.match(r"\.?(conf|egs|espnet_ctckd|test|tools|ci)/", word)
            ends = re.fullmatch(r"[\w./-]+\.(yaml|sh|py|md)", word)
            if (known or ends) and not re.search(r"[<*{…=]", word):
                yield word


@guides
def test_files_that_are_named_exist(guide):
    places = ["", "espnet_ctckd", "egs/an4/kd", "egs/TEMPLATE/kd", "conf/kd"]
    places = [guide.parent, *(ROOT / place for place in places)]
    for name in named_files(guide):
        there = any((place / name).exists() for place in places)
        assert there or name in MADE, name


@pytest.fixture(scope="module")
def flags_of() -> Dict[str, List[str]]:
    """The flags of each command, as its help lists them."""
    more = {"asr_train": [["--help_all"]]}
    more["bench"] = [["--what", what, "--help"] for what in BENCHES]
    listed = {}
    for name in COMMANDS:
        module = importlib.import_module(f"espnet_ctckd.bin.{name}")
        shown = io.StringIO()
        for flags in [["--help"], *more.get(name, [])]:
            with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
                module.main(flags)
        listed[name] = re.findall(r"--\w+", shown.getvalue())
    return listed


@guides
def test_flags_in_command_blocks_are_those_of_the_command(guide, flags_of):
    for block in blocks_of(guide):
        if block.language != "sh":
            continue
        text = block.text.replace("\\\n", " ")
        for name, rest in re.findall(r"-m espnet_ctckd\.bin\.(\w+)(.*)", text):
            assert name in COMMANDS, f"{guide}:{block.line}: {name}"
            for flag in re.findall(r"(?<=\s)--\w+", rest):
                assert flag in flags_of[name], f"{guide}:{block.line}: {flag}"


def shell_options() -> List[str]:
    """The options of the recipes' and tools' scripts."""
    found = []
    for script in (*ROOT.glob("egs/*/kd/**/*.sh"), *ROOT.glob("tools/*.sh")):
        text = script.read_text(encoding="utf-8")
        found += re.findall(r"--[a-z_0-9]+", text)
        found += [f"--{name}" for name in re.findall(r"^(\w+)=", text, re.MULTILINE)]
    return found


@guides
def test_flags_in_the_prose_exist_somewhere(guide, flags_of):
    known = {flag for flags in flags_of.values() for flag in flags}
    known |= set(shell_options())
    for code in re.findall(r"`([^`]+)`", prose_of(guide)):
        for flag in re.findall(r"(?<!\S)--\w+", code):
            assert flag in known, flag
    for name in re.findall(r"espnet_ctckd\.bin\.(\w+)", prose_of(guide)):
        assert name in COMMANDS, name


def test_the_guide_of_the_recipes_has_all_options_and_stages_of_kd_sh():
    done = subprocess.run(
        ["bash", "kd.sh", "--help"],
        cwd=ROOT / "egs/an4/kd", capture_output=True, text=True, check=False,
    )  # fmt: skip
    helped = set()
    for line in done.stdout.splitlines():
        if match := re.match(r"\s+(--\w+(?:, --\w+)*)", line):
            helped |= set(re.findall(r"--\w+", match[1]))
    assert helped
    text = TEMPLATE.read_text(encoding="utf-8")
    table = text.split("## Options")[1].split("## ")[0]
    assert set(re.findall(r"`(--\w+)`", table)) == helped
    listed = done.stdout.split("Stages\n")[1].split("\nGeneral")[0]
    stages = re.findall(r"^ +(\d+)  [a-z]", listed, re.MULTILINE)
    assert len(stages) > 10
    assert re.findall(r"^\| (\d+) \|", text, re.MULTILINE) == sorted(stages, key=int)


@pytest.mark.parametrize(
    ("guide", "names"),
    [
        ("conf/kd", [*SELECTOR_CHOICES, *LOSS_CHOICES, *REDUCTION_CHOICES]),
        ("espnet_ctckd/teachers", list(TEACHER_CHOICES)),
    ],
)
def test_each_entry_of_a_registry_is_a_row_of_its_guide(guide, names):
    text = (ROOT / guide / "README.md").read_text(encoding="utf-8")
    for name in names:
        assert re.search(rf"^\| `{name}`", text, re.MULTILINE), name


def test_the_law_of_the_layout_is_the_one_that_is_enforced():
    text = " ".join(PACKAGE.read_text(encoding="utf-8").split())
    assert f"`{' < '.join(LAYERS)}`" in text
    for layer in LAYERS[1:]:
        assert f"| `{layer}/`" in text
    for module in CORE:
        assert f"`{module}.py`" in text or f"`{module}/`" in text


def test_the_versions_are_those_that_are_installed():
    text = PACKAGE.read_text(encoding="utf-8")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    (row,) = re.findall(rf"^\| {python} \| (\S+) \| (\S+) \|", text, re.MULTILINE)
    assert importlib.metadata.version("espnet") == row[0]
    for name in ("torch", "torchaudio"):
        assert re.match(rf"{re.escape(row[1])}\.", importlib.metadata.version(name))


# What runs


@pytest.fixture
def here(workplace, monkeypatch):
    """The folder of a user who has followed the README."""
    monkeypatch.chdir(workplace)
    return workplace


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A user's folder after the commands of the README."""
    folder = tmp_path_factory.mktemp("user")
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    tokens = ["<blank>", "<unk>", "<space>", *letters, "<sos/eos>"]
    teacher = tiny.write_model(folder / "exp/teacher", tokens=tokens)
    shutil.copytree(folder / "exp/teacher", folder / "exp/a")
    shutil.copytree(folder / "exp/teacher", folder / "exp/b")
    for name, count in (("train", 6), ("valid", 2), ("dev", 2), ("test", 3)):
        data = tiny.write_data(
            folder / "data" / name, [0.8, 1.1, 0.6, 1.0, 0.9, 0.7][:count]
        )
        prefix = "" if name == "train" else f"{name}-"
        for file in ("wav.scp", "text"):
            lines = (data.folder / file).read_text().splitlines(keepends=True)
            (data.folder / file).write_text("".join(prefix + line for line in lines))
        for file in ("utt2spk", "spk2utt"):
            write_scp(data.folder / file, ((utt, utt) for utt in data.wavs()))
        raw = folder / ("dump/raw/org" if name == "test" else "dump/raw") / name
        shutil.copytree(data.folder, raw)
    (folder / "data/token_list").mkdir()
    (folder / "data/token_list/char").mkdir()
    shutil.copy(folder / "exp/teacher/tokens.txt", folder / "data/token_list/char")
    (folder / "conf").mkdir()
    for entry in (ROOT / "conf").iterdir():
        (folder / "conf" / entry.name).symlink_to(entry)
    (given,) = [
        yaml.safe_load(b.text) for b in blocks_of(README) if b.language == "yaml"
    ]
    tiny.write_conf(
        folder / "conf/train_ctckd.yaml",
        **given,
        batch_type="numel", batch_bins=40000, max_epoch=1, num_workers=0,
        num_att_plot=0, use_matplotlib=False, use_tensorboard=False,
        keep_nbest_models=1, optim="adam",
    )  # fmt: skip
    (folder / "lm.arpa").write_text(ARPA)
    with in_folder(folder):
        run_blocks(README, folder)
        export = ["--asr_train_config", str(teacher.config), "--asr_model_file"]
        export += [str(teacher.weights), "--output_dir", "exp/teacher/export"]
        run_command(["-m", "espnet_ctckd.bin.export_student", *export])
        shutil.copytree("exp/student/decode", "exp/plain/decode")
        for other in ("teacher_a", "teacher_b"):
            Path("dump", other).symlink_to("teacher")
    return folder


@contextlib.contextmanager
def in_folder(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_blocks(guide: Path, folder: Path) -> int:
    """Run the commands of a guide and write its files; returns how many commands."""
    commands = 0
    for block in blocks_of(guide):
        if "file" in block.options:
            (folder / block.options["file"]).write_text(block.text)
        extra = block.options.get("needs")
        missing = extra is not None and importlib.util.find_spec(extra) is None
        if block.language != "sh" or "norun" in block.options or missing:
            continue
        for command in python_commands(block.text, folder):
            run_command(command)
            commands += 1
    return commands


def python_commands(script: str, folder: Path) -> List[List[str]]:
    """Run a script by bash, and return the arguments of each `python` in it.

    Python itself is run afterwards, in this process, for time.
    """
    shim = folder / "shim"
    shim.mkdir(exist_ok=True)
    (shim / "calls").write_text("")
    (shim / "python").write_text(
        f"#!/bin/sh\nprintf '%s\\0' \"$@\" end-of-call >>'{shim}/calls'\n"
    )
    (shim / "python").chmod(0o755)
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{shim}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    calls: List[List[str]] = [[]]
    for word in (shim / "calls").read_text().split("\0")[:-1]:
        if word == "end-of-call":
            calls.append([])
        else:
            calls[-1].append(word)
    return calls[:-1]


def run_command(command: List[str]) -> None:
    """Run ``python -m <module> <flags>`` in this process."""
    assert command[0] == "-m", command
    module = importlib.import_module(command[1])
    status, stderr = tiny.call(module, *command[2:])
    assert status == 0, f"{' '.join(command)}\n{stderr[-3000:]}"


def test_the_commands_of_the_readme_end_in_scores(here):
    assert Path("exp/student/export/model.pth").is_file()
    assert len(Path("exp/student/decode/test/text").read_text().splitlines()) == 3
    assert Path("exp/student/decode/test/score.json").is_file()


RUNNING = [
    guide
    for guide in GUIDES[1:]
    if any(b.language == "sh" and "norun" not in b.options for b in blocks_of(guide))
]


@pytest.mark.parametrize(
    "guide", RUNNING, ids=[str(path.relative_to(ROOT).parent) for path in RUNNING]
)
def test_the_commands_of_a_guide_run(guide, here):
    assert run_blocks(guide, here) > 0


def test_an_online_teacher_is_configured_as_in_its_guide():
    (given,) = [
        yaml.safe_load(b.text) for b in blocks_of(README) if b.language == "yaml"
    ]
    guide = ROOT / "espnet_ctckd/teachers/README.md"
    (more,) = [
        yaml.safe_load(block.text)
        for block in blocks_of(guide)
        if block.language == "yaml" and "file" not in block.options
    ]
    kd = KDConfig.from_dict({**given["model_conf"]["kd"], **more["kd"]})
    assert kd.teacher.mode == "online"


def test_the_losses_train_a_student_without_espnet():
    (loop,) = [
        block
        for block in blocks_of(PACKAGE)
        if block.language == "python" and "file" not in block.options
    ]
    code = f"import torch, sys\ntorch.manual_seed(0)\n{loop.text}"
    step = "    optimizer.step()\n"
    assert step in code
    code = code.replace(step, f"{step}    print(loss.item())\n")
    code += "assert not {'espnet2', 'kaldiio', 'yaml'} & sys.modules.keys()\n"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = [float(line) for line in done.stdout.split()]
    assert len(losses) == 10
    assert losses[-1] < 0.7 * losses[0]


# What is added


def add_to(path: Path, text: str) -> None:
    """Add a block of the guide to a file, which is made if it is not there.

    ``NAME = {`` and a line ``...`` stand for the dict of that name in the file: what
    follows is added at its end. An import before it goes to the imports, and all else
    before the dict.
    """
    if not path.exists():
        path.write_text(text)
        return
    source = path.read_text()
    match = re.search(r"^(\w+)(: .*)? = \{\n    \.\.\.\n((?s:.*?))^\}$", text, re.M)
    if match is None:
        path.write_text(f"{source}\n\n{text}")
        return
    before = text[: match.start()]
    if before.startswith("from "):
        lines = source.splitlines(keepends=True)
        nodes = ast.parse(source).body
        last = [n for n in nodes if isinstance(n, (ast.Import, ast.ImportFrom))][-1]
        assert last.end_lineno is not None
        lines.insert(last.end_lineno, before.strip() + "\n")
        source, before = "".join(lines), ""
    begun = re.search(rf"^{match[1]}(: .*)? = \{{\n", source, re.MULTILINE)
    assert begun, f"{path} has no {match[1]}"
    end = source.index("\n}\n", begun.start()) + 1
    parts = [source[: begun.start()], before, source[begun.start() : end]]
    path.write_text("".join([*parts, match[3], source[end:]]))


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the repository to which the examples of the guide were added."""
    copy = tmp_path_factory.mktemp("extended")
    for name in ("espnet_ctckd", "test"):
        leave = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, ignore=leave)
    shutil.copy(ROOT / ".pytest.ini", copy)
    for block in blocks_of(PACKAGE):
        if "file" in block.options:
            add_to(copy / block.options["file"], block.text)
    return copy


def python_in(copy: Path, *command: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=copy, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{copy}:{os.environ.get('PYTHONPATH', '')}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_what_the_guide_adds_keeps_the_contract_and_the_layers(extended):
    printed = python_in(
        extended, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "no:xdist",
        "test/test_contract.py", "test/test_layers.py",
        "-k", "confident or total_variation or torchscript or entropy or threshold",
    )  # fmt: skip
    assert int(re.search(r"(\d+) passed", printed)[1]) > 20
    for entry in ("selector-confident", "loss-total_variation"):
        assert f"[{entry}] PASSED" in printed


# In a process of its own, in which ESPnet is imported from the copy.
ADDED = """
import sys, torch
sys.path.insert(0, "test")
from student import KD, build, make_batch, make_teacher
from espnet_ctckd.bin import dump_teacher

dump_teacher.main(sys.argv[1:])
batch = {**make_batch(), **make_teacher()}
losses = []
for weight in (0.0, 0.5):
    model = build(kd={**KD, "terms": {"entropy": {"weight": weight}}}).eval()
    loss, stats, _ = model(**batch)
    losses.append(loss.item())
loss.sum().backward()
assert torch.isfinite(model.ctc.ctc_lo.weight.grad).all()
from espnet_ctckd.decode import DECODER_CHOICES
from espnet_ctckd.decode.base import Vocabulary
import numpy as np
decoder = DECODER_CHOICES["threshold"].fn(Vocabulary(("<blank>", "a", "b"), 0, "char"))
rows = [[0.1, 0.8, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.1, 0.8, 0.1]]
((best,),) = decoder([np.log(np.array(rows))])
assert best.tokens == (1, 1), best
print("entropy:", losses[0], losses[1], stats["loss_entropy"].item())
"""


class Strided(torch.nn.Module):
    """Log-probabilities (B, U, 4) of audio (B, S), a frame every 40 ms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(1, 4, 640, 640)

    def forward(self, speech: torch.Tensor) -> torch.Tensor:
        return self.conv(speech.unsqueeze(1)).transpose(1, 2).log_softmax(-1)


def test_the_teacher_of_the_guide_dumps_and_its_term_is_added(
    extended, tiny_data, tmp_path
):
    torch.jit.script(Strided()).save(str(tmp_path / "model.pt"))
    (tmp_path / "tokens").write_text("<blank>\na\nb\nc\n")
    printed = python_in(
        extended, "-c", ADDED,
        "--teacher_type", "torchscript", "--teacher", tmp_path / "model.pt",
        "--teacher_conf", f"tokens={tmp_path / 'tokens'}",
        "--wav_scp", tiny_data.wav_scp, "--output_dir", tmp_path / "cache",
    )  # fmt: skip
    cache = tiny.read_cache(tmp_path / "cache")
    assert cache.keys() == tiny_data.wavs().keys()
    without, with_term, own = map(float, printed.split("entropy: ")[1].split())
    assert own < 0
    assert with_term == pytest.approx(without + 0.5 * own, rel=1e-4)


def test_the_stage_of_the_guide_is_listed_and_runs(tmp_path):
    shutil.copytree(ROOT / "egs", tmp_path / "egs", symlinks=True)
    for block in blocks_of(TEMPLATE):
        if "file" in block.options:
            add_to(tmp_path / block.options["file"], block.text)
    recipe = tmp_path / "egs/an4/kd"

    def bash(*command: str) -> str:
        done = subprocess.run(
            ["bash", *command],
            cwd=recipe, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout

    assert re.search(r"^ +17  list the sizes", bash("kd.sh", "--help"), re.MULTILINE)
    (recipe / "exp").mkdir()
    (recipe / "exp/1epoch.pth").write_bytes(b"x" * 5000)
    script = 'log() { echo "$1"; }; asr_exp=exp; . stages/list_sizes.sh; list_sizes'
    printed = bash("-c", script.replace("stages/", "../../TEMPLATE/kd/stages/"))
    assert "exp/1epoch.pth" in printed
