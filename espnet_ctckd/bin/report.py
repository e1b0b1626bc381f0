"""Write report.html, one page with the results of all experiments.

Takes folders of experiments, or a folder that contains them. The page needs no network.
It has results with intervals, learning curves, blank statistics, utterances with audio
and posteriors, speed and memory, and provenance. The parts about blanks and utterances
need --data, exported students, and a teacher: an exported ESPnet model, or
--teacher_cache.
"""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Dict,
    Iterator,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

from espnet_ctckd import __version__
from espnet_ctckd.bin.cli import parser, positive, run
from espnet_ctckd.choices import InputError
from espnet_ctckd.data.audio import audio_info, read_audio
from espnet_ctckd.data.containers import UnusableAudioError
from espnet_ctckd.data.files import atomic_write, shorten
from espnet_ctckd.data.kaldi import read_scp, read_wav_scp
from espnet_ctckd.data.progress import Progress
from espnet_ctckd.evaluation.score import check_alike, hash_transcripts, read_errors

if TYPE_CHECKING:
    from espnet_ctckd.evaluation.experiments import System
    from espnet_ctckd.report.page import Content
    from espnet_ctckd.report.utterances import PlottedSystem


def main(cmd: Optional[Sequence[str]] = None) -> None:
    """Write the page."""
    p = parser(__doc__)
    p.add_argument("experiments", nargs="+", help="folders, e.g. exp")
    p.add_argument(
        "--teacher", help="folder of its experiment (default: the only teacher_...)"
    )
    p.add_argument(
        "--teacher_cache",
        help="folder with the teacher's cache <set>/teacher.scp of each set, if its "
        "experiment has no exported ESPnet model",
    )
    p.add_argument("--data", help="folder with <set>/wav.scp and <set>/text")
    p.add_argument(
        "--utterances",
        type=positive,
        default=40,
        help="utterances with audio and plots per set, the worst first; of the others "
        "only the texts are listed",
    )
    p.add_argument(
        "--spike_utterances",
        type=positive,
        default=300,
        help="utterances per set in which spikes are compared, evenly spread",
    )
    p.add_argument("--title", default="Distillation", help="title of the page")
    p.add_argument("--output", help="file (default: report.html in the first folder)")
    args = p.parse_args(cmd)
    from espnet_ctckd.evaluation.experiments import (
        find_systems,
        is_named_teacher,
        read_system,
        unscored_sets,
    )
    from espnet_ctckd.report.page import Content, render

    folders, unscored = find_systems([Path(folder) for folder in args.experiments])
    teacher = _teacher(folders, args.teacher)
    systems = [read_system(folder, teacher) for folder in folders]
    results = [each for system in systems for each in system.results.values()]
    check_alike([(each.folder.name, each.folder, each.score) for each in results])
    now = datetime.datetime.now().astimezone()
    content = Content(args.title, f"{now:%Y-%m-%d %H:%M}, espnet_ctckd {__version__}")
    decoded = [str(path) for folder in folders for path in unscored_sets(folder)]
    if decoded:
        content.note(f"Decoded and not scored, so in no table: {shorten(decoded)}.")
    several = [folder.name for folder in folders if is_named_teacher(folder)]
    if teacher is None and len(several) > 1:
        content.note(
            f"There are several teachers ({shorten(several)}): --teacher says whose "
            "spikes students are compared with, and whose frames are drawn."
        )
    if unscored:
        content.note(f"Left out, as they have no scores: {shorten(unscored)}.")
    if args.data is None:
        content.without_data = "No --data was given, so no model was run."
    else:
        _look_at_data(content, systems, teacher, args)
    output = Path(args.output or Path(args.experiments[0]) / "report.html")
    page = render(systems, content)
    with atomic_write(output) as f:
        f.write(page)
    print(f"{output}: {len(systems)} systems, {len(page.encode()) / 1e6:.1f} MB")


def _teacher(folders: Sequence[Path], given: Optional[str]) -> Optional[Path]:
    from espnet_ctckd.evaluation.experiments import is_named_teacher

    if given is not None:
        if not Path(given).is_dir():
            raise InputError(f"--teacher: there is no folder {given}")
        return Path(given)
    found = [folder for folder in folders if is_named_teacher(folder)]
    return found[0] if len(found) == 1 else None


def _check_places(teacher: Optional[Path], args: Any) -> None:
    """Refuse --data and --teacher_cache folders without the expected contents."""
    from espnet_ctckd.cache.reader import META

    if not Path(args.data).is_dir():
        raise InputError(f"--data: there is no folder {args.data}")
    if args.teacher_cache is not None:
        if teacher is None:
            raise InputError(
                f"--teacher_cache {args.teacher_cache}: --teacher must say which "
                "folder is the teacher's"
            )
        if not any(Path(args.teacher_cache).glob(f"*/{META}")):
            raise InputError(
                f"--teacher_cache {args.teacher_cache} holds no <set>/{META}: give "
                "the folder that holds the caches of the sets"
            )


def _look_at_data(
    content: Content, systems: Sequence[System], teacher: Optional[Path], args: Any
) -> None:
    """Fill in the parts that need data and models: utterances and spikes."""
    from espnet_ctckd.report.page import spread
    from espnet_ctckd.report.spikes import KnownSpikes
    from espnet_ctckd.report.utterances import list_utterances, look_at

    _check_places(teacher, args)
    exported = [s for s in systems if (s.folder / "export/model.pth").exists()]
    sets = sorted({name for s in systems for _, name in s.results})
    bar = Progress(len(sets) * (len(exported) + args.utterances), "steps")
    for subset in sets:
        folder = Path(args.data) / subset
        lacks = [n for n in ("wav.scp", "text") if not (folder / n).exists()]
        if lacks:
            content.note(f"{folder} has no {lacks[0]}: only scores of {subset}")
            continue
        wavs, samples = _usable(folder / "wav.scp", content)
        text = read_scp(folder / "text")
        _compare_transcripts(folder, text, systems, content)
        utterances = list_utterances(systems, subset, text)
        content.utterances += utterances
        learned = None
        if teacher is not None:
            learned = _teacher_of(teacher, args.teacher_cache, subset, wavs)
            _compare_teachers(args.teacher_cache, subset, systems, content)
            if learned is not None:
                wavs = {u: p for u, p in wavs.items() if u in learned.source}
        voices = [learned] if learned else []
        voices += _students(content, exported, learned, wavs)
        _drop_other_rates(wavs, voices, subset, content)
        _drop_short(wavs, samples, voices, subset, content)
        if teacher is not None and learned:
            some = spread(wavs, args.spike_utterances)
            known = KnownSpikes(learned.source, some)
            content.compared.append(f"{len(some)} utterances of {subset}")
            folders = {s.name: s.folder for s in exported}
            for voice in voices:
                path = folders.get(voice.name, teacher) / f"spikes.{subset}.json"
                content.add_spikes(voice.name, known.of(voice.source, path))
                _advance(bar, f"spikes of {voice.name}")
        playable = [u for u in utterances if u["name"] in wavs] if voices else []
        for each in playable[: args.utterances]:
            utt = each["name"]
            looked = look_at(utt, wavs[utt], voices, learned)
            for selector, share in looked.pop("shares").items():
                content.selected[selector].append(share)
            each.update(looked)
            _advance(bar, utt)
    bar.close()
    if not content.spikes:
        content.without_data = (
            "No posteriors of a teacher were found for these sets: neither an "
            "exported ESPnet model in its folder (--teacher), nor a --teacher_cache."
        )


def _advance(bar: Progress, done: str) -> None:
    bar.set_postfix_str(done, refresh=False)
    bar.update()


def _usable(wav_scp: Path, content: Content) -> Tuple[Dict[str, str], Dict[str, int]]:
    """Return the usable files of a set and their samples; note the other files."""
    wavs, samples, missing = read_wav_scp(wav_scp), {}, []
    for utt, path in wavs.items():
        try:
            # Read the whole file: damage is not visible in the header.
            samples[utt] = len(read_audio(utt, path, rate=None))
        except UnusableAudioError as error:
            missing.append(utt)
            logging.warning(f"left out of the page's audio: {error}")
    if missing:
        content.note(
            f"The audio of {len(missing)} of {len(wavs)} utterances of {wav_scp} "
            f"cannot be used, so these are not drawn: {shorten(missing)}."
        )
    return {utt: path for utt, path in wavs.items() if utt in samples}, samples


def _drop_other_rates(
    wavs: Dict[str, str], voices: Sequence[PlottedSystem], subset: str, content: Content
) -> None:
    """Remove files whose sample rate is not a model's from a set, and note them."""
    others = []
    for utt, path in list(wavs.items()):
        try:
            for rate in {voice.source.rate for voice in voices}:
                audio_info(utt, path, rate)
        except UnusableAudioError as error:
            logging.warning(f"left out of the page's audio: {error}")
            del wavs[utt]
            others.append(utt)
    if others:
        content.note(
            f"{len(others)} utterances of {subset} have another sample rate than the "
            f"models, so these are not drawn: {shorten(others)}."
        )


def _drop_short(
    wavs: Dict[str, str],
    samples: Mapping[str, int],
    voices: Sequence[PlottedSystem],
    subset: str,
    content: Content,
) -> None:
    """Remove files that are too short for a model from a set, and note them."""
    least = max((voice.source.shortest for voice in voices), default=0)
    short = [utt for utt in wavs if samples[utt] < least]
    for utt in short:
        del wavs[utt]
    if short:
        content.note(
            f"{len(short)} utterances of {subset} are too short for a frame, so these "
            f"are not drawn: {shorten(short)}."
        )


def _compare_transcripts(
    folder: Path, text: Mapping[str, str], systems: Sequence[System], content: Content
) -> None:
    """Note the systems that were scored against other transcripts than a set's."""
    for system in systems:
        for (_, subset), result in system.results.items():
            if subset != folder.name or not result.score.reference:
                continue
            # Utterances may have been left out of the set before scoring.
            scored = read_errors(result.folder / "wer.tsv")
            same = {utt: text[utt] for utt in text if utt in scored}
            if hash_transcripts(same) != result.score.reference:
                content.note(
                    f"{folder}/text has other transcripts than {result.folder} was "
                    "scored against: its error rates are of the others. Give --data "
                    "of those, or score again."
                )
            elif len(same) < len(text):
                content.note(
                    f"{result.folder} was scored on {len(same)} of the {len(text)} "
                    f"utterances of {folder}."
                )


def _compare_teachers(
    cache: Optional[str], subset: str, systems: Sequence[System], content: Content
) -> None:
    """Note the systems whose teacher is not the teacher of --teacher_cache."""
    from espnet_ctckd.cache.reader import META, hashes_of, read_meta

    if cache is None or not Path(cache, subset, META).exists():
        return
    given = hashes_of(read_meta(Path(cache, subset)).teacher)
    others = [
        system.name
        for system in systems
        if system.learned_from and system.learned_from != given
    ]
    if others:
        content.note(
            f"--teacher_cache {cache} is of another teacher than these systems learned "
            f"from, so their spikes are not their teacher's: {shorten(others)}."
        )


def _teacher_of(
    teacher: Path, cache: Optional[str], subset: str, wavs: Mapping[str, str]
) -> Optional[PlottedSystem]:
    """Return the teacher's posteriors of a set, from its exported model or a cache."""
    from espnet_ctckd.cache.reader import META
    from espnet_ctckd.report.spikes import open_source
    from espnet_ctckd.report.utterances import PlottedSystem

    cached = [Path(cache, subset)] if cache else []
    for folder in (teacher / "export", *cached):
        if (folder / META).exists() or (folder / "model.pth").exists():
            return PlottedSystem(teacher.resolve().name, open_source(folder, wavs))
    return None


def _students(
    content: Content,
    exported: Sequence[System],
    teacher: Optional[PlottedSystem],
    wavs: Mapping[str, str],
) -> Iterator[PlottedSystem]:
    """Iterate over the students to plot, in the tokens of the first system."""
    from espnet_ctckd.report.spikes import open_source, places
    from espnet_ctckd.report.utterances import PlottedSystem

    first = teacher
    for system in exported:
        if teacher is not None and system.name == teacher.name:
            continue
        try:
            source = open_source(system.folder / "export", wavs)
            where = None if first is None else places(source, first.source)
        except InputError as error:
            content.note(f"{system.name} is not drawn: {error}")
            continue
        voice = PlottedSystem(system.name, source, where, system.selector)
        first = first or voice
        yield voice


if __name__ == "__main__":
    run(main)
