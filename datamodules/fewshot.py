"""Few-shot episodes over recordings: N classes, K examples of each, and one query to be named. The protocol of UniAudio
1.5 (Yang et al. 2024, arXiv:2406.10056).

    For each of the following input output pairs, output is one of ['rain' or 'dog bark']        task induction
    ###
    Input: < river cold stone ... >
    Output: dog bark                                              a shot, K of each class, in random order
    ...
    ###
    Input: < cold cold river ... >
    Output:                                                       the query

What differs from it: the query's source recording is never among the shots, classes and positions of the answer are
balanced, and an episode depends on (seed, number) alone.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datamodules.errors import DataError

Piece = str | list[int]  # text, or the codes of a sound
CONDITIONS = ("codes", "shuffled_codes", "shuffled_labels")
# what stands before and behind a sound; a label behind it ends its line
BEFORE, BEHIND = "###\nInput: < ", " >\nOutput:"
# the query without content, against which a calibrated score is measured (Zhao et al. 2021, arXiv:2102.09690)
EMPTY = "N/A"


class LabelledSound(NamedTuple):
    id: str
    source: str  # the recording that it was cut from
    label: str


class Shot(NamedTuple):
    sound: str  # id
    label: str


class Episode(NamedTuple):
    number: int
    shots_per_class: int
    labels: list[str]  # the N classes, in the order that the induction names them
    shots: list[Shot]  # N x K, shuffled
    query: str  # id
    answer: str

    @property
    def id(self) -> str:
        return f"{self.shots_per_class}-shot-{self.number}"


class EpisodePrompt(NamedTuple):
    head: list[list[Piece]]  # blocks that all candidates share: the induction and the shots
    query: list[Piece]
    empty: list[Piece]  # the query without content


class DisturbedEpisode(NamedTuple):
    """An episode under a condition."""

    shots: list[Shot]
    shown: dict[str, str]  # sound -> the one whose codes are shown


class DrawnEpisodes(NamedTuple):
    """All that is asked, as one process draws it and the others read it from a file."""

    episodes: list[Episode]
    conditions: list[dict[str, DisturbedEpisode]]  # of each episode
    recordings: int  # that they are drawn from
    classes: int

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> "DrawnEpisodes":
        """From JSON of `_asdict()`, whose tuples are lists."""
        drawn = [Episode(*one)._replace(shots=[Shot(*shot) for shot in one[3]]) for one in values["episodes"]]
        conditions = [
            {name: DisturbedEpisode([Shot(*shot) for shot in shots], shown) for name, (shots, shown) in one.items()}
            for one in values["conditions"]
        ]
        return cls(drawn, conditions, values["recordings"], values["classes"])


def draw_episodes(
    sounds: Sequence[LabelledSound],
    ways: int,
    shots: Sequence[int],
    count: int,
    conditions: Sequence[str],
    seed: int,
) -> DrawnEpisodes:
    """`episodes` for each of `shots`, and what `disturb` makes of each under each condition."""
    ids = [sound.id for sound in sounds]
    drawn = [one for number in shots for one in episodes(sounds, ways, number, count, seed)]
    disturbed = [{name: disturb(one, name, ids, seed) for name in conditions} for one in drawn]
    return DrawnEpisodes(
        drawn,
        [{name: DisturbedEpisode(other.shots, shown) for name, (other, shown) in one.items()} for one in disturbed],
        len(sounds),
        len({sound.label for sound in sounds}),
    )


def episodes(sounds: Sequence[LabelledSound], ways: int, shots: int, count: int, seed: int) -> list[Episode]:
    """`count` episodes of `ways` classes with `shots` examples each. The answer stands at each position of `labels`
    equally often, and its class is drawn evenly. Raises DataError where the sounds are too few.
    """
    classes: dict[str, list[LabelledSound]] = defaultdict(list)
    for sound in sorted(sounds):
        classes[sound.label].append(sound)
    if len(classes) < ways:
        raise DataError(
            f"{ways}-way episodes need {ways} classes, and the recordings have {len(classes)}: "
            f"{', '.join(classes) or 'none'}"
        )
    fewest, label, source = min(
        (len(members) - count, label, source)
        for label, members in classes.items()
        for source, count in Counter(sound.source for sound in members).items()
    )
    if fewest < shots:
        raise DataError(
            f"{label!r} has {fewest} recordings beside those of the source {source}; {shots}-shot needs {shots}. "
            + (f"Type --shots=[{fewest}], or take" if fewest else "Take")
            + " more recordings, as --splits=[train,validation,test]"
        )
    return [_episode(classes, ways, shots, number, seed) for number in range(count)]


def _episode(classes: Mapping[str, list[LabelledSound]], ways: int, shots: int, number: int, seed: int) -> Episode:
    draw = random.Random(f"{seed}/{ways}/{shots}/{number}")
    names = list(classes)
    turn = random.Random(f"{seed}/{ways}/{shots}/round {number // len(names)}").sample(names, len(names))
    answer = turn[number % len(names)]
    labels = draw.sample([name for name in names if name != answer], ways - 1)
    labels.insert(number // len(names) % ways, answer)
    query = draw.choice(classes[answer])
    chosen = [
        Shot(sound.id, label)
        for label in labels
        for sound in draw.sample([sound for sound in classes[label] if sound.source != query.source], shots)
    ]
    draw.shuffle(chosen)
    return Episode(number, shots, labels, chosen, query.id, answer)


def disturb(episode: Episode, condition: str, ids: Sequence[str], seed: int) -> tuple[Episode, dict[str, str]]:
    """The episode under a condition, and for each of its sounds the id of the one whose codes are shown.

    shuffled_codes: those of another recording each, of any class; shuffled_labels: the labels of the shots change
    places.
    """
    draw = random.Random(f"{seed}/{episode.id}/{condition}")
    sounds = [shot.sound for shot in episode.shots] + [episode.query]
    shown = {sound: sound for sound in sounds}
    if condition == "shuffled_codes":
        shown = {sound: _another(sound, ids, draw) for sound in sounds}
    elif condition == "shuffled_labels":
        labels = [shot.label for shot in episode.shots]
        draw.shuffle(labels)
        shots = [Shot(shot.sound, label) for shot, label in zip(episode.shots, labels, strict=True)]
        episode = episode._replace(shots=shots)
    else:
        assert condition == "codes", condition
    return episode, shown


def _another(sound: str, ids: Sequence[str], draw: random.Random) -> str:
    number = draw.randrange(len(ids) - 1)
    return ids[number + (number >= ids.index(sound))]


def prompt(episode: Episode, codes: Mapping[str, list[int]], repeats: int, induction: bool) -> EpisodePrompt:
    """codes: of each of the episode's sounds, by id; repeats: how often each shot is shown; induction: with the
    sentence that names the classes.
    """
    head: list[list[Piece]] = [[task(episode.labels)]] if induction else []
    shots: list[list[Piece]] = [[BEFORE, codes[shot.sound], f"{BEHIND}{output(shot.label)}"] for shot in episode.shots]
    return EpisodePrompt(head + shots * repeats, [BEFORE, codes[episode.query], BEHIND], [f"{BEFORE}{EMPTY}{BEHIND}"])


def task(labels: Sequence[str]) -> str:
    """The sentence that names the classes."""
    choice = " or ".join(f"'{label}'" for label in labels)
    return f"For each of the following input output pairs, output is one of [{choice}]\n"


def output(label: str) -> str:
    return f" {label}\n"
