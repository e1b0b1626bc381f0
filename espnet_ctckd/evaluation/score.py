"""Recognition errors, counted and tabulated as in ESPnet's recipes."""

import csv
import hashlib
import json
import logging
import os
import re
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import (
    Any,
    Callable,
    Dict,
    Hashable,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

import numpy as np

from espnet_ctckd.choices import InputError
from espnet_ctckd.data.files import Pathlike, atomic_write, read_json, sha256, shorten
from espnet_ctckd.data.kaldi import read_scp

UNITS = ("wer", "cer", "ter")
_SCORE = "score.json"
# Version of scores with removed characters: version 1 replaced each by a blank.
_SCORING = 2


@dataclass(frozen=True)
class Counts:
    """Error counts of one or more utterances.

    Attributes:
        sentences: number of utterances.
        wrong: number of utterances with an error.
        units: number of words, characters or tokens of the references.
        correct: number of correct units.
        substitutions: number of substituted units.
        deletions: number of deleted units.
        insertions: number of inserted units.
    """

    sentences: int = 0
    wrong: int = 0
    units: int = 0
    correct: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        theirs = vars(other)
        return Counts(**{key: n + theirs[key] for key, n in vars(self).items()})

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors in percent of the units; infinite if there are only insertions."""
        if not self.units:
            return float("inf") if self.errors else 0.0
        return 100.0 * self.errors / self.units


@dataclass(frozen=True)
class Normalization:
    """Normalization of references and hypotheses before they are compared.

    A run of white space of any kind is one separator of words.

    Attributes:
        case: ``keep``, ``upper`` or ``lower``.
        remove: characters to delete, e.g. ``.,?!``. They are not replaced, so that
            ``don't`` without ``'`` is one word. White space in it is ignored.
        unicode: form of Unicode: ``nfc`` composes accents, which changes no visible
            letter; ``nfkc`` also replaces full-width letters and ligatures by plain
            ones; ``keep`` does neither.
    """

    case: str = "keep"
    remove: str = ""
    unicode: str = "nfc"

    def __call__(self, text: str) -> str:
        """Normalize a transcript."""
        removed = {ord(c): None for c in self._composed(self.remove) if not c.isspace()}
        text = self._composed(text).translate(removed)
        if self.case != "keep":
            text = self._composed(getattr(text, self.case)())
        return " ".join(text.split())

    def _composed(self, text: str) -> str:
        if self.unicode == "nfc":
            return unicodedata.normalize("NFC", text)
        return unicodedata.normalize("NFKC", text) if self.unicode == "nfkc" else text

    def __str__(self) -> str:
        removed = f", without {self.remove!r}" if self.remove else ""
        form = f", unicode {self.unicode}" if self.unicode != "nfc" else ""
        return f"case {self.case}{removed}{form}"


def count_errors(
    references: Sequence[Hashable], hypothesis: Sequence[Hashable]
) -> Counts:
    """Align one hypothesis with its reference.

    Args:
        references: units of the reference; if empty, all units of the hypothesis are
            insertions.
        hypothesis: units of the hypothesis.

    Returns:
        The counts of an alignment with the fewest errors.
    """
    if not references:
        extra = len(hypothesis)
        return Counts(sentences=1, wrong=int(extra > 0), insertions=extra)
    import jiwer

    # jiwer splits at spaces, which may be units themselves, so the units are numbered.
    numbers: Dict[Hashable, int] = {}
    ref, hyp = (
        " ".join(str(numbers.setdefault(unit, len(numbers))) for unit in units)
        for units in (references, hypothesis)
    )
    out = jiwer.process_words(ref, hyp)
    return Counts(
        sentences=1,
        wrong=int(out.substitutions + out.deletions + out.insertions > 0),
        units=len(references),
        correct=out.hits,
        substitutions=out.substitutions,
        deletions=out.deletions,
        insertions=out.insertions,
    )


def error_rate(references: Mapping[str, str], texts: Mapping[str, str]) -> float:
    """Return the word error rate in percent.

    Args:
        references: utterance -> transcript.
        texts: utterance -> hypothesis; only these utterances count.
    """
    counts = [count_errors(references[u].split(), t.split()) for u, t in texts.items()]
    return sum(counts, Counts()).rate


def read_references(path: Pathlike, normalization: Normalization) -> Dict[str, str]:
    """Read and normalize reference transcripts.

    Args:
        path: Kaldi ``text``.
        normalization: normalization of the transcripts.

    Raises:
        InputError: an utterance occurs twice, or no transcript has words.
    """
    references = {utt: normalization(text) for utt, text in read_scp(path).items()}
    if not any(references.values()):
        raise InputError(
            f"none of the {len(references)} transcripts of {path} has words: there is "
            "no error rate without"
        )
    return references


# ESPnet's token types whose tokens are written literally.
_WRITTEN = ("char", "bpe", "word", "phn")


def spelled_by(tokens: Iterable[str], token_type: str = "char") -> str:
    """Return the characters that tokens can spell, sorted; empty for any character.

    Args:
        tokens: tokens of a model, or words of a lexicon; byte-fallback tokens such as
            ``<0xE4>`` spell any character.
        token_type: ESPnet's token type; those of Whisper and similar models spell any
            character.
    """
    characters: Set[str] = set()
    for token in tokens:
        if token_type not in _WRITTEN or re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", token):
            return ""
        if not re.fullmatch(r"<[^<>]+>", token):
            characters.update(token.replace("▁", ""))
    return "".join(sorted(characters))


def warn_unspelled(
    references: Mapping[str, str],
    characters: str,
    normalization: Normalization,
    cannot: str = "that the model cannot output",
    least: float = 0.0,
) -> None:
    """Warn of references with characters that no hypothesis can contain.

    Args:
        references: utterance -> normalized transcript.
        characters: characters of the model, from `spelled_by`; empty for any.
        normalization: normalization of the comparison.
        cannot: description of the other characters, for the warning.
        least: smallest percentage of such characters for a warning.
    """
    odd = _unspelled(references, characters, normalization)
    share = _share(odd, references)
    if not characters or not odd or share < least:
        return
    total = sum(odd.values(), Counter())
    listed = [repr(c) for c in sorted(total, key=lambda c: (-total[c], c))]
    ways = [
        Normalization(case, normalization.remove, unicode)
        for unicode in dict.fromkeys((normalization.unicode, "nfc", "nfkc"))
        for case in dict.fromkeys((normalization.case, "lower", "upper"))
    ]
    texts = [{utt: way(text) for utt, text in references.items()} for way in ways]
    left = [_share(_unspelled(t, characters, w), t) for t, w in zip(texts, ways)]
    best = min(range(len(ways)), key=lambda i: left[i])
    advice = "are case, punctuation and Unicode form the model's?"
    if left[best] < share / 2:
        flags = f"--case {ways[best].case} --unicode {ways[best].unicode}"
        advice = f"with {flags} it is {left[best]:.1f} %:"
    logging.warning(
        f"{len(odd)} of {len(references)} references have characters {cannot} "
        f"({shorten(listed)}), e.g. {next(iter(odd))}, {share:.1f} % of all; {advice} "
        "see --case, --remove and --unicode"
    )


def _unspelled(
    references: Mapping[str, str], characters: str, normalization: Normalization
) -> Dict[str, "Counter[str]"]:
    """Return utterance -> characters of its reference that no hypothesis can have."""
    plain = Normalization(normalization.case, unicode="keep")
    spelled = {c for each in characters for c in plain(each)}
    known = spelled.union(*map(normalization, characters))

    def is_known(character: str) -> bool:
        # Tokens may spell a letter and its accent one after the other.
        parts = unicodedata.normalize("NFD", character)
        composed = normalization.unicode != "keep" and spelled.issuperset(parts)
        return character in known or character.isspace() or composed

    odd_ones = {c for c in set().union(*references.values()) if not is_known(c)}
    odd = {u: Counter(filter(odd_ones.__contains__, t)) for u, t in references.items()}
    return {utt: counted for utt, counted in odd.items() if counted}


def _share(odd: Mapping[str, "Counter[str]"], references: Mapping[str, str]) -> float:
    """Return the odd characters in percent of all characters but spaces."""
    total = sum(len(text) - text.count(" ") for text in references.values())
    return 100 * sum(map(Counter.total, odd.values())) / max(total, 1)


def score(
    reference: Pathlike,
    hypothesis: Pathlike,
    split: Callable[[str], Sequence[str]],
    normalization: Normalization = Normalization(),
) -> Dict[str, Counts]:
    """Count the errors of every utterance.

    Args:
        reference: Kaldi ``text``.
        hypothesis: Kaldi ``text`` of the same utterances.
        split: splits a transcript into units.
        normalization: normalization of both.

    Returns:
        Utterance -> counts.

    Raises:
        InputError: an utterance is missing, occurs twice or is not in the reference;
            or no reference has words.
    """
    references = read_references(reference, normalization)
    hypotheses = {u: normalization(text) for u, text in read_scp(hypothesis).items()}
    for has, path, lacks, other in (
        (references, reference, hypotheses, hypothesis),
        (hypotheses, hypothesis, references, reference),
    ):
        missing = [u for u in has if u not in lacks]
        if missing:
            raise InputError(
                f"{other} lacks {len(missing)} of {len(has)} utterances of {path}: "
                f"{shorten(missing)}. Score what was decoded against its own reference"
            )
    return {
        utt: count_errors(split(words), split(hypotheses[utt]))
        for utt, words in references.items()
    }


def by_speaker(counted: Mapping[str, Counts], utt2spk: Pathlike) -> Dict[str, Counts]:
    """Sum the counts of each speaker.

    Args:
        counted: utterance -> counts.
        utt2spk: Kaldi's file.

    Returns:
        Speaker -> counts.

    Raises:
        InputError: an utterance has no speaker.
    """
    speakers = read_scp(utt2spk)
    lacking = [utt for utt in counted if not speakers.get(utt)]
    if lacking:
        raise InputError(f"{utt2spk} has no speaker of {shorten(lacking)}")
    sums: Dict[str, Counts] = {}
    for utt, counts in counted.items():
        sums[speakers[utt]] = sums.get(speakers[utt], Counts()) + counts
    return sums


def hash_transcripts(transcripts: Mapping[str, str]) -> str:
    """Return a hash of transcripts, independent of their order; not normalized."""
    listed = json.dumps(transcripts, sort_keys=True)
    return hashlib.sha256(listed.encode()).hexdigest()


def write_scores(
    folder: Pathlike,
    counted: Mapping[str, Mapping[str, Counts]],
    normalization: Normalization,
    utt2spk: Optional[Pathlike] = None,
    texts: Optional[Tuple[Pathlike, Pathlike]] = None,
) -> Dict[str, Counts]:
    """Write the scores of a set.

    Args:
        folder: folder for ``<unit>.tsv``, ``<unit>.speakers.tsv`` and, last,
            ``score.json``.
        counted: unit (``wer``, ``cer``, ``ter``) -> utterance -> counts.
        normalization: normalization of the counts.
        utt2spk: Kaldi's file; None writes no scores by speaker.
        texts: reference and hypothesis; their hashes are stored, so that scores of
            other texts are recognised as out of date.

    Returns:
        Unit -> total.
    """
    totals = {}
    for unit, of_utterances in counted.items():
        path = Path(folder) / f"{unit}.tsv"
        totals[unit] = _write_counts(path, "utterance", of_utterances)
        if utt2spk is not None:
            speakers = by_speaker(of_utterances, utt2spk)
            _write_counts(path.with_suffix(".speakers.tsv"), "speaker", speakers)
    result: Dict[str, Any] = {unit: asdict(total) for unit, total in totals.items()}
    result["normalization"] = str(normalization)
    if normalization.remove:
        result["scoring"] = _SCORING
    if texts is not None:
        reference, hypothesis = texts
        result["reference"] = hash_transcripts(read_scp(reference))
        result["hypothesis"] = [os.path.relpath(hypothesis, folder), sha256(hypothesis)]
    with atomic_write(Path(folder) / _SCORE) as f:
        json.dump(result, f)
    return totals


def _write_counts(path: Path, of: str, counted: Mapping[str, Counts]) -> Counts:
    """Write a table of counts, and return their sum."""
    names = list(asdict(Counts()))
    with atomic_write(path) as f:
        f.write("\t".join([of, *names]) + "\n")
        for name, counts in sorted(counted.items()):
            f.write("\t".join([name, *map(str, asdict(counts).values())]) + "\n")
    return sum(counted.values(), Counts())


class Score(NamedTuple):
    """Totals of a set.

    Attributes:
        totals: unit -> counts.
        normalization: description of the normalization.
        reference: hash of the transcripts; empty if it was not stored.
    """

    totals: Dict[str, Counts]
    normalization: str
    reference: str


def read_score(folder: Pathlike) -> Score:
    """Read the totals of a set.

    Args:
        folder: folder of the scores.

    Raises:
        InputError: the set was not scored, its files do not match, or it was decoded
            again since.
    """
    path = Path(folder) / _SCORE
    if not path.exists():
        raise InputError(
            f"{folder} has no scores: run `python -m espnet_ctckd.bin.score`"
        )
    try:
        found = read_json(path, "score again")
        normalization = found.pop("normalization", str(Normalization()))
        if found.pop("scoring", 1) < _SCORING and ", without " in normalization:
            normalization += ", each replaced by a blank"
        reference = found.pop("reference", "")
        name, hypothesis = found.pop("hypothesis", ["", ""])
        decoded = Path(folder, name)
        totals = {unit: Counts(**counts) for unit, counts in found.items()}
    except InputError:
        raise
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}): score again") from None
    for unit, total in totals.items():
        listed = Path(folder) / f"{unit}.tsv"
        if not total.units or sum(_read_counts(listed).values(), Counts()) != total:
            raise InputError(
                f"{listed} does not add up to what {path} says: score again"
            )
    if hypothesis and decoded.is_file() and sha256(decoded) != hypothesis:
        raise InputError(
            f"{decoded} is another text than {path} is the score of: score again"
        )
    return Score(totals, normalization, reference)


def check_alike(scores: Sequence[Tuple[str, Pathlike, Score]]) -> None:
    """Refuse to compare scores that were computed differently.

    Args:
        scores: name of the set, folder of the scores, and the scores.

    Raises:
        InputError: the normalizations differ, or sets of one name have different
            references.
    """
    how = {score.normalization: folder for _, folder, score in scores}
    if len(how) > 1:
        listed = ", ".join(f"{folder}: {name}" for name, folder in how.items())
        raise InputError(
            f"texts were normalized in {len(how)} ways ({listed}): score all alike"
        )
    first: Dict[str, Tuple[Pathlike, str]] = {}
    for name, folder, score in scores:
        if score.reference:
            other, reference = first.setdefault(name, (folder, score.reference))
            if reference != score.reference:
                raise InputError(
                    f"{other} and {folder} were scored against different transcripts: "
                    "score both against the same"
                )


def read_scores(expdir: Pathlike) -> List[Tuple[str, Dict[str, Counts]]]:
    """Find the totals below an experiments folder.

    Args:
        expdir: folder with ``<experiment>/<decoding>/<set>/score.json``.

    Returns:
        Pairs of ``<experiment>/<decoding>/<set>`` and unit -> totals, sorted.

    Raises:
        InputError: sets were scored with different normalization or transcripts.
    """
    scores = [
        (path.parent.name, path.parent, read_score(path.parent))
        for path in sorted(Path(expdir).glob(f"*/*/*/{_SCORE}"))
    ]
    check_alike(scores)
    return [(str(f.relative_to(expdir)), score.totals) for _, f, score in scores]


def read_errors(path: Pathlike) -> Dict[str, int]:
    """Read the number of errors of each utterance, from ``<unit>.tsv``."""
    return {utt: counts.errors for utt, counts in _read_counts(path).items()}


def _read_counts(path: Pathlike) -> Dict[str, Counts]:
    """Read the counts of each utterance, from ``<unit>.tsv``."""
    if not Path(path).exists():
        raise InputError(f"there is no {path}: score again")
    with open(path, encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f, delimiter="\t"))
    try:
        return {
            row.pop("utterance"): Counts(**{key: int(n) for key, n in row.items()})
            for row in rows
        }
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}): score again") from None


def results_table(scores: Sequence[Tuple[str, Dict[str, Counts]]], unit: str) -> str:
    """Format totals as a table, in the form of ESPnet's recipes.

    Args:
        scores: from `read_scores`.
        unit: ``wer``, ``cer`` or ``ter``.

    Returns:
        Markdown, with counts in percent of the units.
    """
    lines = [
        f"### {unit.upper()}",
        "",
        "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, totals in scores:
        if unit not in totals:
            continue
        c = totals[unit]
        shares = [c.correct, c.substitutions, c.deletions, c.insertions, c.errors]
        row = [name, c.sentences, c.units]
        row += [f"{100.0 * n / c.units:.1f}" for n in shares]
        row += [f"{100.0 * c.wrong / c.sentences:.1f}"]
        lines.append("|" + "|".join(map(str, row)) + "|")
    return "\n".join([*lines, ""])


def bootstrap_interval(
    paths: Sequence[Pathlike],
    others: Sequence[Pathlike] = (),
    draws: int = 1000,
) -> Tuple[float, float]:
    """Return the bootstrap 95 % interval of an error rate, over utterances.

    Args:
        paths: ``<unit>.tsv`` from `write_scores`; for several files, e.g. one per
            seed, the rate is their mean.
        others: files of another system; the interval is then of the difference, the
            rate of ``paths`` minus that of ``others``, paired by utterance.
        draws: number of bootstrap samples; the random seed is fixed.

    Returns:
        Lower and upper bound, in percent of the units.

    Raises:
        InputError: the files have different utterances.

    References:
        Bisani, Ney, Bootstrap Estimates for Confidence Intervals in ASR Performance
        Evaluation (2004), https://doi.org/10.1109/ICASSP.2004.1326009
    """
    names: List[str] = []

    def rates(path: Pathlike) -> np.ndarray:
        counted = _read_counts(path)
        names[:] = names or list(counted)
        if list(counted) != names:
            differ = sorted(set(names) ^ set(counted)) or ["their order"]
            raise InputError(
                f"{paths[0]} and {path} are not of the same utterances "
                f"({shorten(differ)}): decode and score the same set"
            )
        errors = np.array([counts.errors for counts in counted.values()])
        units = np.array([counts.units for counts in counted.values()])
        size = (draws, len(counted))
        drawn = np.random.default_rng(0).integers(len(counted), size=size)
        drawn_units = units[drawn].sum(1)
        drawn_rates = np.full(draws, np.nan)
        np.divide(
            100.0 * errors[drawn].sum(1),
            drawn_units,
            out=drawn_rates,
            where=drawn_units > 0,
        )
        return drawn_rates

    mean = np.mean([rates(path) for path in paths], axis=0)
    if others:
        mean = mean - np.mean([rates(path) for path in others], axis=0)
    # A draw without words has no error rate.
    low, high = np.nanpercentile(mean, [2.5, 97.5])
    return float(low), float(high)
