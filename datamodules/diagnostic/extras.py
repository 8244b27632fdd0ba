"""What makes scenes richer, beyond the first version, which stays as it is: each extra is named, and none is the default.

    layers    a lasting sound goes on below those that follow, up to three and four at once; "what else sounds while ..."
    repeats   one bell, dog or door sounds one to five times; "how many times ..."
    levels    events at four levels, 8 dB apart, in place of two: how quiet may a sound be, and still be heard
    moments   "what do you hear at 3 seconds", "at what second does the rain stop"
    grounding "from when to when do you hear the dog", of each sound: <|0.52|> to <|1.48|>; of one that is not there: not heard
    unanswerable  "which comes first, the dog or the rain" of a scene without rain: not heard
    place     every other sound that does not last is far, in a small room; "on which side do you hear the dog", "is it near or far"
    apart     each kind has another one that it is never heard with (scene.partners): pairs for a test that no training had

The random numbers are their own, so that a scene is the same before an extra is added to it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from numpy.random import Generator

from datamodules.diagnostic.captions_and_questions import NUMBERS, Question, question
from datamodules.diagnostic.scene import EXTRAS, GRID, JITTER, PLACES, STRIKES, Event, Scene, generator
from datamodules.diagnostic.wordings import EXTRA_WORDINGS, NOT_HEARD, WORDINGS

NAMES = ("layers", "repeats", "levels", "moments", "grounding", "unanswerable", "place", "apart")
# effects that sound all the time: where one ends is heard
LASTING = ("rain", "wind", "waves", "fire", "engine", "helicopter", "applause", "cricket", "clock", "siren")
QUIETER = (0.0, -16.0)  # dB; with the gains near -1 and -9 two events still differ by 2 dB at most or by 6 at least
TIMES = (*NUMBERS, "five")
TOGETHER = 0.4  # s; shorter overlaps are not asked about, nor is what has one
UNANSWERABLE = "unanswerable"  # kind of question
ASIDE = 0.4  # pan, 6 dB: what is nearer to the middle is on no side
CLEAR = 0.2  # s around a moment in which nothing begins or ends


def enrich(scene: Scene, extras: Sequence[str], seed: int) -> Scene:
    rng, places = (generator(seed, scene.split, scene.number, stream) for stream in (EXTRAS, PLACES))
    events = list(scene.events)
    for number, event in enumerate(events):
        following = events[number + 1].onset if number + 1 < len(events) else scene.seconds
        layered, draws, quieter = rng.random() < 0.5, rng.random(3).tolist(), QUIETER[rng.integers(len(QUIETER))]
        if "layers" in extras and layered and event.kind in LASTING and following < scene.seconds:
            event = event._replace(seconds=round(_end_of_layer(rng, following, scene.seconds) - event.onset, 3))
        elif "repeats" in extras and event.kind in STRIKES:
            event = _struck(event, draws, scene.seconds if len(events) == 1 else following, len(events) == 1)
        if "levels" in extras:
            event = event._replace(gain_db=round(event.gain_db + quieter, 2))
        if "place" in extras and event.kind not in LASTING:  # in lasting noise no room is heard
            event = event._replace(far=bool(places.random() < 0.5))
        events[number] = event
    return scene._replace(events=tuple(events))


def _end_of_layer(rng: Generator, following: float, scene_seconds: float) -> float:
    """On the grid, 0.1 s off at most, and after the next event has begun; or where the scene ends."""
    first = int(following / GRID) + 3
    end = GRID * int(rng.integers(first, max(first, int(scene_seconds / GRID)) + 1)) + rng.uniform(-JITTER, JITTER)
    return min(scene_seconds, float(end))


def _struck(event: Event, draws: Sequence[float], until: float, alone: bool) -> Event:
    """draws: three numbers in [0, 1): how many strikes, how far apart, and when an event that is alone begins."""
    length = STRIKES[event.kind]
    period = length + 0.15 + 0.2 * draws[1]
    room = until - JITTER if alone else until - event.onset
    most = min(len(TIMES), 1 + int((room - length) / period))
    strikes = tuple(round(k * period, 3) for k in range(1 + int(draws[0] * most)))
    onset, seconds = event.onset, round(strikes[-1] + length, 3)
    if alone:  # early enough for all of its strikes
        steps = 1 + int((room - seconds) / GRID)
        onset = max(0.0, round(event.onset - event.second + GRID * int(draws[2] * steps), 3))
    return event._replace(onset=onset, seconds=seconds, strikes=strikes)


def extra_questions(scenes: Sequence[Scene], extras: Sequence[str], seed: int) -> list[list[Question]]:
    """For every scene, as `questions`. Every answer to "how many times", a side and a distance is expected equally often."""
    counted = _equally(scenes, lambda event: TIMES[len(event.strikes) - 1] if event.strikes else None)
    placed = [_equally(scenes, answer) if "place" in extras else {} for answer in (_side, _distance)]
    asked, kinds = [], sorted({event.kind for scene in scenes for event in scene.events})
    for scene in scenes:
        rng = generator(seed, scene.split, scene.number, EXTRAS)
        of_scene: list[Question] = []
        for event in scene.events:
            if answer := counted.get((scene.number, event.kind)):
                of_scene.append(_ask(rng, "times", answer, a=event.kind))
        for kind, made in (("layers", _together), ("moments", _at), ("moments", _end)):
            choices = list(made(scene)) if kind in extras else []
            if choices:
                wording, answer, names = choices[rng.integers(len(choices))]
                of_scene.append(_ask(rng, wording, answer, **names))
        if "unanswerable" in extras:
            of_scene.append(_unanswerable(rng, scene, kinds))
        if "grounding" in extras:
            of_scene.extend(_grounding(rng, scene, kinds))
        for kind, answers in zip(("side", "distance"), placed, strict=True):
            for event in scene.events:
                if answer := answers.get((scene.number, event.kind)):
                    of_scene.append(_ask(rng, kind, answer, a=event.kind))
        asked.append(of_scene)
    return asked


def _equally(scenes: Sequence[Scene], answer: Callable[[Event], str | None]) -> dict[tuple[int, str], str]:
    """(number of a scene, kind) -> the answer of this event of it, so that each answer comes as often as the others."""
    groups = defaultdict(list)
    for scene in scenes:
        for event in scene.events:
            if (said := answer(event)) is not None:
                groups[said].append((scene.number, event.kind))
    fewest = min(map(len, groups.values()), default=0)
    return {event: said for said, events in groups.items() for event in events[:fewest]}


def _side(event: Event) -> str | None:
    return None if abs(event.pan) < ASIDE else "left" if event.pan < 0 else "right"


def _distance(event: Event) -> str | None:
    return None if event.kind in LASTING else "far" if event.far else "near"


def _ask(rng: Generator, kind: str, answer: str, **names: str) -> Question:
    return question(rng, EXTRA_WORDINGS, kind, answer, **names)


def _unanswerable(rng: Generator, scene: Scene, kinds: Sequence[str]) -> Question:
    """Of a sound, an instrument or a word that the scene has not, worded as where it has."""
    families = {event.family for event in scene.events}
    absent = sorted(set(kinds) - {event.kind for event in scene.events})
    asked = ["when", "order", "loudness"] if absent else []
    asked += [kind for kind, family in (("instrument", "music"), ("word", "speech")) if family not in families]
    kind = asked[rng.integers(len(asked))]
    names = [absent[rng.integers(len(absent))]] if absent else []
    if kind in ("order", "loudness"):
        names = [str(name) for name in rng.permutation([*names, scene.events[rng.integers(len(scene.events))].kind])]
    return question(rng, WORDINGS, kind, NOT_HEARD, **dict(zip("ab", names, strict=False)))._replace(kind=UNANSWERABLE)


def _grounding(rng: Generator, scene: Scene, kinds: Sequence[str]) -> Iterator[Question]:
    """Of each event, in an order that says nothing, and of a kind that is not heard."""
    answers = {event.kind: f"<|{event.onset:.2f}|> to <|{_end_of(event):.2f}|>" for event in scene.events}
    if absent := [kind for kind in kinds if kind not in answers]:
        answers[absent[rng.integers(len(absent))]] = NOT_HEARD
    for name in rng.permutation(sorted(answers)):
        yield _ask(rng, "grounding", answers[name], a=str(name))


Choice = tuple[str, str, dict[str, str]]  # kind of question, answer, names


def _end_of(event: Event) -> float:
    return event.onset + event.seconds


def _together(scene: Scene) -> Iterator[Choice]:
    """Of each event with which exactly one other sounds."""
    for event in scene.events:
        overlaps = [
            (min(_end_of(event), _end_of(other)) - max(event.onset, other.onset), other.kind)
            for other in scene.events
            if other is not event
        ]
        with_it = [(seconds, kind) for seconds, kind in overlaps if seconds > 0]
        if len(with_it) == 1 and with_it[0][0] >= TOGETHER:
            yield "together", with_it[0][1], {"a": event.kind}


def _at(scene: Scene) -> Iterator[Choice]:
    """Of each half second in the first part of an event at which nothing else is near."""
    for step in range(1, int(scene.seconds / GRID)):
        second = step * GRID
        near = [event for event in scene.events if event.onset - CLEAR < second < _end_of(event) + CLEAR]
        if len(near) == 1 and not near[0].strikes:
            since = second - near[0].onset
            # what was struck has died away later, and what was spoken is over
            if CLEAR <= since <= max(2 * CLEAR, 0.6 * near[0].seconds):
                yield "at", near[0].kind, {"second": f"{second:g}"}


def _end(scene: Scene) -> Iterator[Choice]:
    """Of lasting sounds that end near a half second, and before the scene does."""
    for event in scene.events:
        end = _end_of(event)
        nearest = round(end / GRID) * GRID
        if event.kind in LASTING and abs(end - nearest) <= JITTER + 1e-6 and end <= scene.seconds - GRID:
            yield "end", f"{nearest:g}", {"a": event.kind}
