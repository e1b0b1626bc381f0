"""A teacher in the training step: the same as from a cache, and in nobody's way."""

from fractions import Fraction

import pytest
import tiny
import torch
from test_train import flags, weights

from espnet_ctckd.align import MOST_DROPPED
from espnet_ctckd.bin import dump_teacher
from espnet_ctckd.choices import InputError
from espnet_ctckd.config import TeacherConfig
from espnet_ctckd.data import read_audio
from espnet_ctckd.online import OnlineTeacher, open_online
from espnet_ctckd.task import CTCKDTask
from espnet_ctckd.teachers import open_teacher
from espnet_ctckd.trainer import REPORTED

KD = {**tiny.KD, "weight": 1.0, "reduction": "frame_mean"}


def online(model, **more):
    return {"mode": "online", "teacher": str(model.config.parent), **more}


def student_of(tmp_path, kd, **changes):
    """A student in evaluation, whose loss has no chance in it."""
    model = tiny.write_model(tmp_path, kd, seed=3, **changes)
    return CTCKDTask.build_model_from_file(model.config, model.weights, "cpu")[0].eval()


@pytest.mark.parametrize("order", ["the same", "another"])
def test_online_and_cached_give_the_same_loss(tmp_path, tiny_model, tiny_data, order):
    cache = tmp_path / "cache"
    dump_teacher.main(
        tiny.dump_args(tiny_model, tiny_data, cache, "--batch_seconds", 0.1)
    )
    tokens = list(tiny.TOKENS)
    if order == "another":
        tokens[3:7] = tokens[6:2:-1]
    cached = student_of(tmp_path / "cached", KD, tokens=tokens)
    asks = student_of(
        tmp_path / "online", {**KD, "teacher": online(tiny_model)}, tokens=tokens
    )
    config = asks.kd_config.teacher
    asks.online = open_online(config, tokens, 0, "cpu")
    index = [tokens.index(token) for token in tiny.TOKENS]
    losses = []
    for utt, path in tiny_data.wavs().items():
        audio = torch.from_numpy(read_audio(utt, path, tiny.RATE)).unsqueeze(0)
        length = torch.tensor([audio.size(1)])
        said = tiny.read_cache(cache)[utt].log_probs
        teacher = torch.empty(1, len(said), len(tokens))
        teacher[0][:, index] = torch.from_numpy(said)
        given = {"teacher": teacher, "teacher_lengths": torch.tensor([len(said)])}
        with torch.no_grad():
            ours, stats, _ = asks(audio, length)
            theirs, _, _ = cached(audio, length, **given)
        assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
        assert float(stats["teacher_seconds"]) > 0
        losses.append(float(ours))
    assert len(set(losses)) == len(losses)


def test_the_teacher_belongs_to_no_module(tmp_path, tiny_model):
    kd = {**KD, "teacher": online(tiny_model)}
    plain = student_of(tmp_path / "plain", KD)
    student = student_of(tmp_path / "student", kd)
    names = list(student.state_dict())
    student.online = open_online(
        student.kd_config.teacher, tiny.TOKENS, 0, device="cpu"
    )
    assert list(student.state_dict()) == names == list(plain.state_dict())
    assert len(list(student.parameters())) == len(list(plain.parameters()))


def test_a_training_needs_no_cache_and_says_what_the_teacher_costs(
    tmp_path, tiny_model, tiny_data
):
    kd = {**KD, "weight": 0.5, "teacher": online(tiny_model, dtype="bfloat16")}
    CTCKDTask.main(cmd=flags(tmp_path / "run", tiny_data, kd=kd))
    assert list(weights(tmp_path / "run")) == list(
        torch.load(tiny_model.weights, weights_only=True)
    )
    checkpoint = tmp_path / "run/exp/checkpoint.pth"
    with torch.serialization.safe_globals(REPORTED):
        reported = torch.load(checkpoint, weights_only=True)["reporter"]["stats"]
    for part in ("train", "valid"):
        assert reported[2][part]["teacher_seconds"] > 0
        assert reported[2][part]["loss_kd"] > 0


def test_a_label_free_training_asks_about_what_the_student_hears(
    tmp_path, tiny_model, tiny_data, monkeypatch
):
    heard = []
    ask = OnlineTeacher.__call__

    def listen(self, speech, lengths):
        heard.append(float(speech.abs().max()))
        return ask(self, speech, lengths)

    monkeypatch.setattr(OnlineTeacher, "__call__", listen)
    kd = {**KD, "teacher": online(tiny_model)}
    command = flags(tmp_path / "run", tiny_data, kd=kd, text=False, max_epoch=1)
    CTCKDTask.main(cmd=[*command, "--speech_volume_normalize", "0.001"])
    assert heard
    assert max(heard) <= 0.0011


@pytest.mark.parametrize(
    ("kd", "cache", "message"),
    [
        ({"mode": "online"}, False, "kd.teacher.teacher does not say which"),
        (
            {"mode": "online", "teacher": ["a", "b"]},
            False,
            r"is \['a', 'b'\]; give one",
        ),
        ({"mode": "live"}, False, "unknown kd.teacher.mode 'live'; choose one of"),
        (
            {"mode": "online", "teacher": "nowhere"},
            True,
            r"names the cache .*: remove it, or set kd.teacher.mode: cached",
        ),
        (
            {"mode": "online", "teacher": "MODEL", "dtype": "int8"},
            False,
            "unknown dtype 'int8'; choose one of float32",
        ),
        (
            {"mode": "online", "teacher": "MODEL", "dtype": "float16"},
            False,
            "float16 needs a GPU",
        ),
    ],
)
def test_what_cannot_run_online_is_refused(
    tmp_path, tiny_model, tiny_data, tiny_cache, kd, cache, message
):
    if kd.get("teacher") == "MODEL":
        kd = {**kd, "teacher": str(tiny_model.config.parent)}
    command = flags(
        tmp_path / "run",
        tiny_data,
        tiny_cache if cache else None,
        {**KD, "teacher": kd},
    )
    with pytest.raises(InputError, match=message):
        CTCKDTask.main(cmd=command)


def test_another_frame_or_sample_rate_is_refused(tiny_model):
    teacher = open_online(
        TeacherConfig(mode="online", teacher=str(tiny_model.config.parent)),
        tiny.TOKENS,
        0,
        "cpu",
    )
    teacher.check_rate(16000, Fraction(640), Fraction(1))
    with pytest.raises(InputError, match="hears audio of 16000 Hz, the student of"):
        teacher.check_rate(8000, Fraction(640), Fraction(1))
    with pytest.raises(InputError, match=r"frame every 40 ms.*80 ms.*set it to 2"):
        teacher.check_rate(16000, Fraction(1280), Fraction(1))


def test_a_student_that_was_not_given_its_teacher_says_so(tmp_path, tiny_model):
    student = student_of(tmp_path / "s", {**KD, "teacher": online(tiny_model)})
    with pytest.raises(InputError, match="the teacher is opened by the training only"):
        student(torch.zeros(1, 16000), torch.tensor([16000]))


def test_what_the_student_lacks_is_dropped_up_to_a_limit(tmp_path, tiny_model):
    """Random weights say all tokens, far more than may be dropped."""
    teacher = open_teacher("espnet", str(tiny_model.config.parent), "cpu", {})
    fewer = [token for token in tiny.TOKENS if token != "d"]
    asks = OnlineTeacher(teacher, "the teacher here", fewer, 0)
    audio = torch.from_numpy(tiny.sound(20.0, 1)).float().unsqueeze(0)
    length = torch.tensor([audio.size(1)])
    said, _ = asks(audio, length)
    full = teacher.posteriors(audio, length).log_probs.exp()
    kept = [i for i, token in enumerate(tiny.TOKENS) if token != "d"]
    expected = full[..., kept] / full[..., kept].sum(-1, keepdim=True)
    assert torch.allclose(said.log_probs.exp(), expected, atol=1e-6)
    lost = float(1 - full[..., kept].sum(-1).mean())
    assert lost > MOST_DROPPED
    assert 10 * int(said.lengths) < 5000 < 11 * int(said.lengths)
    for _ in range(9):
        asks(audio, length)
    with pytest.raises(InputError, match=rf"have {100 * lost:.1f} % of the mass"):
        asks(audio, length)


def test_half_precision_is_near_and_is_another_plan(tmp_path, tiny_model, tiny_data):
    full, half = tmp_path / "full", tmp_path / "half"
    dump = [tiny.dump_args(tiny_model, tiny_data, folder) for folder in (full, half)]
    dump_teacher.main(dump[0])
    dump_teacher.main([*dump[1], "--dtype", "bfloat16"])
    for utt, said in tiny.read_cache(full).items():
        near = tiny.read_cache(half)[utt].log_probs
        assert 0 < abs(torch.tensor(near - said.log_probs).exp() - 1).mean() < 0.2
    with pytest.raises(InputError, match=r"begun for something else \(dtype float32"):
        dump_teacher.main([*dump[0], "--dtype", "bfloat16"])


@pytest.mark.parametrize("selector", ["blank_elimination", "all"])
def test_a_teacher_that_outputs_blank_alone_is_refused_before_the_training(
    tmp_path, tiny_data, selector
):
    teacher = tiny.write_model(tmp_path / "teacher")
    states = torch.load(teacher.weights, weights_only=True)
    states["ctc.ctc_lo.bias"][0] += 1e4
    torch.save(states, teacher.weights)
    kd = {**KD, "weight": 0.5, "selector": selector, "teacher": online(teacher)}
    command = flags(tmp_path / "run", tiny_data, kd=kd, max_epoch=1)
    if selector == "all":  # which takes blank frames, too
        CTCKDTask.main(cmd=command)
        return
    with pytest.raises(InputError, match=r"takes none of .* from the online teacher"):
        CTCKDTask.main(cmd=command)
    assert not (tmp_path / "run/exp/1epoch.pth").exists()


def test_a_teacher_is_opened_once_and_what_is_selected_is_logged(
    tmp_path, tiny_model, tiny_data, monkeypatch, caplog
):
    opened = []

    def open_it(*args):
        opened.append(args)
        return open_online(*args)

    monkeypatch.setattr("espnet_ctckd.task.open_online", open_it)
    monkeypatch.setattr("espnet_ctckd.trainer.open_online", open_it)
    kd = {**KD, "selector": "blank_elimination", "teacher": online(tiny_model)}
    lines = []
    monkeypatch.setattr("espnet_ctckd.task.logging.info", lines.append)
    CTCKDTask.main(cmd=flags(tmp_path / "run", tiny_data, kd=kd, max_epoch=1))
    assert len(opened) == 1
    for part in ("train", "valid"):
        assert any(str(x).startswith(f"{part}: kd: the selector") for x in lines)
