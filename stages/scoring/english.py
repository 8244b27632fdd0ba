"""English as answers use it: words, plurals, negation and refusals, and the labels that a text mentions. No torch here."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple, Protocol

ARTICLES = ("a", "an", "the")
IRREGULAR = {
    "mice": "mouse", "geese": "goose", "children": "child", "men": "man", "women": "woman", "people": "person",
    "wolves": "wolf", "knives": "knife", "leaves": "leaf", "calves": "calf", "oxen": "ox", "feet": "foot",
}  # fmt: skip
REFUSES = re.compile(
    r"\b(?:(?:can(?:not|'t| not)|could(?:n't| not)|unable to|not able to|impossible to|not possible to)\s+(?:\w+\s+){0,2}?"
    r"(?:determine|tell|identify|hear|say|know|be determined|be sure|answer|process|listen|recogni[sz]e|classify|access|provide|assist|help|make)"
    r"|(?:do(?:n't| not)|did(?:n't| not)) (?:know|have (?:access|enough|any|the))|no idea|as an? (?:ai|language model|text)|no way to (?:tell|know)"
    r"|not (?:enough|sufficient) (?:information|context)|insufficient (?:information|context)|unclear|unknown|not sure|unsure|n/a|no answer)\b",
    re.IGNORECASE,
)
RESUMES = re.compile(
    r"\b(?:but|however|though|still|my (?:best )?guess|i would guess|i guess|perhaps|maybe|probably|likely|sounds? like|may be|might be"
    r"|(?<!whether )(?<!if )(?<!that )(?:it is|it's)|answer)\b",
    re.IGNORECASE,
)
NOT_A_DENIAL = re.compile(
    r"\b(?:no doubt|without (?:a |any )?doubt|not only|not just|no question|can(?:not|'t) be anything (?:but|other than)|nothing (?:but|other than))\b",
    re.IGNORECASE,
)
DENIES = re.compile(
    r"\b(?:not|no|never|neither|nor|without|cannot|isn't|wasn't|aren't|weren't|doesn't|don't|didn't|can't|hardly|rather than"
    r"|instead of|except|excluding|rules? out|absence of|lacks?|anything but|other than|unlike)\b",
    re.IGNORECASE,
)
DENIED_AFTER = re.compile(
    r"\s*(?:sounds?\s+)?(?:(?:is|are|was|were|can|could)(?:\s+(?:not|never)|n't)\s+(?:be\s+)?"
    r"(?:heard|audible|present|there|it|right|correct|the answer|here|possible)"
    r"|cannot be (?:heard|right|it)|can't be (?:heard|right|it)"
    r"|(?:is|are|was|were)\s+(?:absent|missing|ruled out|excluded|wrong|incorrect))",
    re.IGNORECASE,
)
CLAUSE = re.compile(
    r"[.;:!?\n]|\bbut\b|\bhowever\b|\binstead\b(?! of)|\bit is\b|\bit's\b|\bthis is\b|\bthere is\b|,", re.IGNORECASE
)
LIST_GOES_ON = re.compile(r",\s*(?:(?:a|an|the)\s+)?\w+(?:\s+\w+){0,2}\s*(?:,[^.;:!?]*)?\b(?:or|nor)\b", re.IGNORECASE)
# sharps and flats belong to a note, a minus to the number behind it
WORD = re.compile(r"(?:(?<![^\W_])-(?=\d))?[^\W_]+(?:(?:'|[#\u266d]+)[^\W_]+)*[#\u266d]*")
SIGNED_WORD = re.compile(r"(?:(?![.,;:!?'\"()\[\]{}*_])\S)(?:\S*(?![.,;:!?'\"()\[\]{}*_])\S)?")


class Named(Protocol):
    """A label, and other ways to say it."""

    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...


class Mention(NamedTuple):
    name: str
    begin: int  # of its first word, counted in words
    end: int
    denied: bool


class _Word(NamedTuple):
    text: str
    begin: int  # in characters
    end: int


def words(text: str, exact: bool = False) -> list[str]:
    """Lower case, without punctuation, without a leading article; signs that make another word of it stay: C#, -3.

    exact: all signs stay, and the article: what stands between blanks, but for punctuation at its ends.
    """
    tokens = _split(text, exact)
    if exact or not _begins_with_article(text, tokens):
        return [word.text for word in tokens]
    return [word.text for word in tokens[1:]]


def label_key(text: str, exact: bool = False) -> str:
    """What two texts of the same label share."""
    return " ".join(words(text, exact))


@lru_cache(maxsize=256)
def differ_in_signs(labels: tuple[str, ...]) -> bool:
    """Whether two of these labels would be one without their signs or a leading article: then they are read `exact`."""
    keys: dict[str, str] = {}
    return any(keys.setdefault(label_key(label), label_key(label, True)) != label_key(label, True) for label in labels)


def key_among(labels: Iterable[str]) -> Callable[[str], str]:
    """Text -> what two texts of the same one of these labels share."""
    return partial(label_key, exact=differ_in_signs(tuple(labels)))


def refusal(text: str) -> bool:
    """Whether an answer says that it has none; one that refuses and then ventures a guess does not count."""
    text = straight(text)
    match = REFUSES.search(text)
    return match is not None and not RESUMES.search(text[match.end() :])


def statements(text: str, keep_questions: bool = False) -> str:
    """An answer without the question it repeats and without the refusal before its guess; the whole text where nothing
    else is left.
    """
    text = straight(text)
    if (match := REFUSES.search(text)) and (guess := RESUMES.search(text, match.end())):
        text = text[guess.start() :]
    sentences: list[str] = re.findall(r"[^.!?\n]+[.!?\n]*", text)
    kept = [sentence for sentence in sentences if keep_questions or "?" not in sentence]
    return " ".join(" ".join(kept).split()) if kept else text


def mentions(text: str, labels: Sequence[Named], negation: bool = True) -> list[Mention]:
    """Labels, aliases and their plurals in whole words, the longest where one lies inside another, in the order of the
    text. Labels that differ in signs alone are read by these; "B major" does not mention "A major".
    """
    exact = differ_in_signs(tuple(name for label in labels for name in (label.name, *label.aliases)))
    tokens = _split(text, exact)
    forms = [(label.name, form) for label in labels for form in _forms(label, exact)]
    spans = negated_spans(text, {word for _, form in forms for word in form.words}) if negation else []
    first: dict[str, list[int]] = {}
    for index, token in enumerate(tokens):
        for singular in singulars(token.text):
            first.setdefault(singular, []).append(index)
    all_mentions = []
    for name, form in forms:
        for begin in first.get(form.words[0], []):
            end = begin + len(form.words)
            if form.had_article and begin and len(tokens[begin - 1].text) == 1 and tokens[begin - 1].text != "a":
                continue
            if end <= len(tokens) and all(
                wanted in singulars(token.text) for wanted, token in zip(form.words, tokens[begin:end], strict=True)
            ):
                position = tokens[begin].begin
                denied = any(low <= position < high for low, high in spans)
                denied |= negation and bool(DENIED_AFTER.match(straight(text), tokens[end - 1].end))
                all_mentions.append(Mention(name, begin, end, denied))
    longest = [
        one
        for one in all_mentions
        if not any(
            other.begin <= one.begin and one.end <= other.end and other.end - other.begin > one.end - one.begin
            for other in all_mentions
        )
    ]
    return sorted(set(longest), key=lambda mention: (mention.begin, mention.end, mention.name))


def negated_spans(text: str, labels: set[str] | frozenset[str] = frozenset()) -> list[tuple[int, int]]:
    """Stretches of characters that a negation covers: from it to the end of its clause. A cue that is a label itself
    ("no") is none.
    """
    covered = NOT_A_DENIAL.sub(lambda match: " " * len(match.group(0)), straight(text))
    spans = []
    for match in DENIES.finditer(covered):
        if match.group(0).lower() in labels:
            continue
        if match.group(0).lower() == "no" and re.match(r"\s*[,.;:!]", covered[match.end() :]):
            continue  # "No, it is a dog"
        end = len(text)
        for clause in CLAUSE.finditer(covered, match.end()):
            if clause.group(0) == "," and (
                LIST_GOES_ON.match(covered, clause.start()) or match.group(0).lower() == "neither"
            ):
                continue
            end = clause.start()
            break
        spans.append((match.start(), end))
    return spans


def singulars(word: str) -> set[str]:
    """The word, and what it may be the plural of."""
    forms = {word}
    if word in IRREGULAR:
        forms.add(IRREGULAR[word])
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        forms.add(word[:-1])
        if word.endswith("es"):
            forms.add(word[:-2])
        if word.endswith("ies"):
            forms.add(word[:-3] + "y")
    return forms


class _Form(NamedTuple):
    words: tuple[str, ...]
    had_article: bool  # which is not among them


def _forms(label: Named, exact: bool) -> list[_Form]:
    """The ways to say a label that have a word in them."""
    return [form for name in (label.name, *label.aliases) if (form := _form(name, exact)).words]


@lru_cache(maxsize=1 << 14)
def _form(name: str, exact: bool) -> _Form:
    had_article = not exact and _begins_with_article(name, _split(name, False))
    return _Form(tuple(words(name, exact)), had_article)


def _begins_with_article(text: str, tokens: Sequence[_Word]) -> bool:
    """ "(A) cat" does not."""
    return len(tokens) > 1 and tokens[0].text in ARTICLES and text[tokens[0].end].isspace()


def _split(text: str, exact: bool) -> list[_Word]:
    """Words with their positions; an apostrophe inside a word belongs to it, `'s` at its end does not."""
    return [
        _Word(re.sub(r"'s?$", "", match.group(0).lower()), match.start(), match.end())
        for match in (SIGNED_WORD if exact else WORD).finditer(straight(text))
    ]


def straight(text: str) -> str:
    """With the typewriter's apostrophe and minus, character for character."""
    return text.translate({0x2019: "'", 0x2212: "-", 0x266F: "#"})
