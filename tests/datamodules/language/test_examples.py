"""Texts of several recordings in a row: who stands in them, under which name, and what of them is trained."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

from datamodules.language.conversations import CONTEXT, TEXT, Conversation
from datamodules.language.examples import NONE, ExampleTexts, Making, read_classes
from datamodules.language.sound_windows import codes_of
from tests.datamodules.language.test_absent_sounds import made
from tests.datamodules.language.test_answer_pairs import Cuts

LABELS = ("dog", "rain", "bell", "cat")


def cuts(labels: int = 4, each: int = 6, corpus: str = "one") -> Cuts:
    """Two recordings of each source; one code tells the label, the other the recording."""
    rows = Cuts()
    for number in range(labels * each):
        cut = made(f"{corpus}-{number}", LABELS[number % labels])
        cut.custom |= {"codes": [number % labels, number], "source": f"{corpus}-{number // 2}", "corpus": corpus}
        rows.append(cut)
    return rows


def texts_of(rows: Cuts, weight: float, making: Making, weights: Mapping[str, float] = {}) -> ExampleTexts:
    return ExampleTexts(rows, read_classes(rows), weight, making, weights)


def read(item: Conversation) -> list[tuple[list[int], str, bool]]:
    """(codes, name, whether it is trained), in the text's order."""
    (turns,) = item.dialogues
    assert turns[0][0] == CONTEXT, "the sentence that names the classes"
    examples = []
    for (role, segments), (trained, names) in zip(turns[1::2], turns[2::2], strict=True):
        before, codes, behind = segments
        assert (role, before, behind) == (CONTEXT, "###\nInput: < ", " >\nOutput:")
        examples.append((codes, str(names[0]).strip(), trained == TEXT))
    return examples


def test_the_recording_itself_is_the_last_and_others_are_of_other_sources():
    source = texts_of(cuts(), 2.0, Making(3, 2, 0.0))
    for number, cut in enumerate(source.cuts):
        texts = source[number]
        assert [item.id for item in texts] == [f"{cut.id}-examples-{copy}" for copy in range(2)]
        for item in texts:
            examples = read(item)
            assert examples[-1][0] == cut.custom["codes"] and examples[-1][2], "its name is always trained"
            shown = [codes for codes, _, _ in examples[:-1]]
            assert all(source.cuts[codes[1]].custom["source"] != cut.custom["source"] for codes in shown)
            assert len(set(map(tuple, shown))) == len(shown), "no recording twice"
            assert all(LABELS[codes[0]] == name for codes, name, _ in examples)
            names = [name for _, name, _ in examples]
            assert 2 <= len(set(names)) <= 3 and all(1 <= names[:-1].count(name) <= 2 for name in set(names))
            assert [trained for _, _, trained in examples] == [name in names[:at] for at, name in enumerate(names)]
            task = item.dialogues[0][0][1][0]
            assert isinstance(task, str) and sorted(re.findall("'([a-z]+)'", task)) == sorted(set(names))
            assert codes_of(item) is None, "several sounds: no window of one makes it shorter"
    assert source[0] == texts_of(cuts(), 2.0, Making(3, 2, 0.0))[0], "drawn by the id"


def test_a_renamed_text_calls_each_class_by_one_name_all_through():
    """In half of 240 texts within three standard deviations of 7.7; a class may draw its own name, all of a text seldom."""
    source = texts_of(cuts(), 10.0, Making(4, 2, 0.5))
    other = 0
    for number in range(len(source)):
        for item in source[number]:
            called = {(LABELS[codes[0]], name) for codes, name, _ in read(item)}
            assert len(called) == len({label for label, _ in called}) == len({name for _, name in called})
            other += any(label != name for label, name in called)
    assert 85 < other < 130


def test_examples_are_of_the_recordings_corpus_and_as_often_as_is_asked():
    both = Cuts([*cuts(), *cuts(2, corpus="two"), *cuts(1, corpus="three")])
    source = texts_of(both, 1.0, Making(4, 1, 1.0), {"two": 3.0})
    counted = {"one": 0, "two": 0, "three": 0}
    for number, cut in enumerate(both):
        for item in source[number]:
            counted[cut.custom["corpus"]] += 1
            names = {name for _, name, _ in read(item)}
            assert names <= set(LABELS[:2] if cut.custom["corpus"] == "two" else LABELS)
    assert counted == {"one": 24, "two": 36, "three": 0}, "a corpus of one class gives none"
    assert source.left_out == 6 and len(source.rows) == 6
    chosen = read_classes(both, lambda cut: cut.custom["corpus"] == "two")
    assert chosen.names == [("two", "dog"), ("two", "rain")] and set(chosen.of_cut[:24]) == {NONE}
    assert source.digest() != texts_of(both, 1.0, Making(4, 2, 1.0)).digest()


def test_recordings_with_no_label_or_several_are_left_alone():
    rows = cuts()
    rows[0].custom["labels"], rows[1].custom["labels"] = [], ["dog", "rain"]
    source = texts_of(rows, 1.0, Making(2, 3, 0.0))
    assert source[0] == source[1] == []
    seen = {codes[1] for number in range(len(rows)) for item in source[number] for codes, _, _ in read(item)}
    assert seen == set(range(2, 24))


def test_a_label_of_one_source_ends_no_text_and_is_counted():
    """A rare one of two sources does, however many others there are, and in whatever order they come."""
    rows = cuts(3, 40)
    for number, name in ((7, "typo"), (20, "twice"), (90, "twice"), (50, "pieces"), (51, "pieces")):
        rows[number].custom["labels"] = [name]
    source = texts_of(rows, 1.0, Making(6, 4, 1.0))
    without = [number for number in range(len(rows)) if not source[number]]
    assert without == [7, 50, 51] and source.left_out == 3
    assert {source.classes.names[number][1] for number in source.rows} == {"dog", "rain", "bell", "twice"}
    for number in (20, 90):
        (item,) = source[number]
        assert [number in codes for codes, _, _ in read(item)].count(True) == 1
    for corpus in (cuts(1), Cuts()):
        source = texts_of(corpus, 1.0, Making(2, 1, 0.0))
        assert not source.rows and source.left_out == len(corpus)


def test_labels_are_read_once_and_travel_to_a_worker(tmp_path: Path):
    rows = cuts()
    first = read_classes(rows, None, tmp_path / "measured/labels.npz")
    again = read_classes(Cuts(), None, tmp_path / "measured/labels.npz")
    assert again.names == first.names and (again.of_cut == first.of_cut).all() and (again.source == first.source).all()
    source = pickle.loads(pickle.dumps(ExampleTexts(rows, again, 1.0, Making(3, 2, 0.5))))
    assert [source[number] for number in range(24)] == [
        texts_of(rows, 1.0, Making(3, 2, 0.5))[number] for number in range(24)
    ]
    assert first.of_cut.nbytes + first.source.nbytes == 12 * len(rows)
