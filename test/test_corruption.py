"""A cache that was damaged or mixed up in any way is found out, a sound one never."""

import contextlib
import random
import shutil

import pytest
import soundfile
import tiny
from espnet2.train.dataset import ESPnetDataset

from espnet_ctckd.bin import dump_teacher
from espnet_ctckd.cache.check import check_cache
from espnet_ctckd.cache.reader import read_meta
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import read_audio
from espnet_ctckd.data.kaldi import read_scp, write_scp
from espnet_ctckd.plugin.preprocessor import PosteriorReader, TeacherDecoder

CORRUPTIONS, SOUND = 200, 50


@pytest.fixture(scope="module")
def origin(tmp_path_factory, tiny_model):
    """Twelve utterances in shards of 20 s, packed, and another teacher's cache."""
    folder = tmp_path_factory.mktemp("origin")
    data = tiny.write_data(folder / "data", [5.0 + 0.1 * i for i in range(12)])
    other = tiny.write_model(folder / "model", seed=5)
    for name, model in (("cache", tiny_model), ("other", other)):
        flags = tiny.dump_args(model, data, folder / name, "--batch_seconds", 6)
        dump_teacher.main([*flags, "--top_k", "3"])
    assert len(read_meta(folder / "cache").arks) >= 3
    return folder


@pytest.fixture
def copy(tmp_path, origin):
    """Makes a copy of cache and audio that may be damaged."""

    def make(number):
        folder = tmp_path / str(number)
        for name in ("cache", "data"):
            shutil.copytree(origin / name, folder / name)
        for path in ("cache/teacher.scp", "data/wav.scp"):
            moved = [
                (utt, place.replace(str(origin), str(folder)))
                for utt, place in read_scp(folder / path).items()
            ]
            write_scp(folder / path, moved)
        return folder

    return make


def train(folder):
    """What a training without check_cache reads of all utterances."""
    meta = read_meta(folder / "cache")
    assert meta.token_list == list(tiny.TOKENS)  # match_tokens refuses others
    reader = PosteriorReader(meta.records, None, len(meta.token_list), meta.blank)
    paths = [
        (str(folder / "cache/teacher.scp"), "teacher", "kaldi_ark"),
        (str(folder / "data/wav.scp"), "speech", "sound"),
    ]
    data = ESPnetDataset(paths, preprocess=TeacherDecoder(None, reader, None))
    found = {}
    for utt in read_scp(folder / "data/wav.scp"):
        said = data[utt][1]
        found[utt] = said["teacher"].tobytes() + said["teacher_ids"].tobytes()
    return found


def any_file(folder, draw):
    files = (p for p in (folder / "cache").rglob("*") if p.parent.name != "logs")
    return draw.choice(sorted(p for p in files if p.is_file()))


def flip_a_bit(folder, draw, _origin):
    path = any_file(folder, draw)
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def cut_bytes(folder, draw, _origin):
    path = any_file(folder, draw)
    content = path.read_bytes()
    start = draw.randrange(len(content))
    end = draw.randint(start + 1, len(content))
    path.write_bytes(content[:start] + content[end:])


def swap_records(folder, draw, _origin):
    scp = read_scp(folder / "cache/teacher.scp")
    one, two = draw.sample(sorted(scp), 2)
    scp[one], scp[two] = scp[two], scp[one]
    write_scp(folder / "cache/teacher.scp", scp.items())


def rename_an_utterance(folder, draw, _origin):
    scp = read_scp(folder / "cache/teacher.scp")
    name = draw.choice(sorted(scp))
    scp[draw.choice([name + "x", "a", name[:-1]])] = scp.pop(name)
    write_scp(folder / "cache/teacher.scp", scp.items())


def put_another_teacher_s_shard(folder, draw, origin):
    ark = draw.choice(sorted(read_meta(folder / "cache").arks))
    shutil.copy(origin / "other" / ark, folder / "cache" / ark)


def take_other_audio(folder, draw, _origin):
    wavs = read_scp(folder / "data/wav.scp")
    utt = draw.choice(sorted(wavs))
    samples = read_audio(utt, wavs[utt], tiny.RATE).copy()
    place = draw.randrange(len(samples))
    samples[place] += 0.25 if samples[place] < 0.5 else -0.25
    soundfile.write(wavs[utt], samples, tiny.RATE, "PCM_16")


def exchange_audio(folder, draw, _origin):
    wavs = read_scp(folder / "data/wav.scp")
    one, two = draw.sample(sorted(wavs), 2)
    wavs[one], wavs[two] = wavs[two], wavs[one]
    write_scp(folder / "data/wav.scp", wavs.items())


def take_another_token_list(folder, draw, _origin):
    tokens = list(tiny.TOKENS)
    one, two = draw.sample(range(8), 2)
    tokens[one], tokens[two] = tokens[two], tokens[one]
    path = folder / "cache/tokens.txt"
    path.write_text("".join(f"{token}\n" for token in tokens))


def lose_a_file(folder, draw, _origin):
    any_file(folder, draw).unlink()


KINDS = [
    flip_a_bit,
    cut_bytes,
    swap_records,
    rename_an_utterance,
    put_another_teacher_s_shard,
    take_other_audio,
    exchange_audio,
    take_another_token_list,
    lose_a_file,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_corruption_is_found(kind, copy, origin):
    expected = train(origin)
    unfound, wrong = [], []
    for number in range(CORRUPTIONS // len(KINDS) + 1):
        folder = copy(number)
        kind(folder, random.Random(number), origin)
        try:
            check_cache(folder / "cache", folder / "data/wav.scp")
            unfound.append(number)
        except InputError:
            pass
        # Where the training stops, it is as it should be.
        with contextlib.suppress(Exception):
            wrong += [number] if train(folder) != expected else []
        shutil.rmtree(folder)
    assert (unfound, wrong) == ([], [])


def test_no_sound_cache_is_refused(tmp_path, tiny_model):
    draw = random.Random(0)
    for number in range(SOUND):
        lengths = [draw.uniform(0.2, 1.5) for _ in range(draw.randint(1, 4))]
        data = tiny.write_data(tmp_path / f"data{number}", lengths, seed=number)
        more = ("--top_k", draw.randint(2, 7)) if number % 3 else ()
        more += ("--states",) if number % 5 == 0 else ()
        cache = tmp_path / f"cache{number}"
        dump_teacher.main(tiny.dump_args(tiny_model, data, cache, *more))
        check_cache(cache, data.wav_scp)


def test_the_error_names_the_first_offenders_and_counts_the_rest(copy):
    folder = copy(0)
    scp = read_scp(folder / "cache/teacher.scp")
    shifted = dict(zip(scp, [*list(scp.values())[1:], next(iter(scp.values()))]))
    write_scp(folder / "cache/teacher.scp", shifted.items())
    with pytest.raises(InputError) as error:
        check_cache(folder / "cache", folder / "data/wav.scp")
    assert "utterance utt00: its record" in str(error.value)
    assert "and 9 more. Delete" in str(error.value)
