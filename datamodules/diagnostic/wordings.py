"""How questions about scenes are worded: a key is a kind of question, or a kind and of what it asks."""

WORDINGS: dict[str, tuple[str, ...]] = {
    "what": ("What do you hear?", "What is heard in this recording?", "Which sound is this?", "What makes this sound?"),
    "what first": (
        "What do you hear first?",
        "What is the first sound?",
        "Which sound comes first?",
        "Which sound starts first?",
    ),
    "what last": (
        "Which sound starts last?",
        "What is the last sound to begin?",
        "Which sound is the last one to start?",
    ),
    "presence": ("Is there {noun}?", "Can you hear {noun}?", "Do you hear {noun}?", "Is {noun} in this recording?"),
    "count": (
        "How many different sounds are there?",
        "How many different sounds do you hear?",
        "Count the different sounds.",
    ),
    "order": (
        "Which comes first, the {a} or the {b}?",
        "Which starts earlier, the {a} or the {b}?",
        "What do you hear first, the {a} or the {b}?",
    ),
    "when": (
        "At what second do you first hear the {a}?",
        "To the nearest half second, when do you first hear the {a}?",
        "How many seconds pass before you hear the {a}?",
    ),
    "loudness": (
        "Which is louder, the {a} or the {b}?",
        "What sounds louder, the {a} or the {b}?",
        "Of the {a} and the {b}, which is louder?",
    ),
    "instrument": ("Which instrument plays?", "What instrument do you hear?", "Name the instrument."),
    "word": ("Which word is spoken?", "What word do you hear?", "What is said?"),
}

# for what only richer scenes have, or is asked about moments (extras.py)
EXTRA_WORDINGS: dict[str, tuple[str, ...]] = {
    "times": (
        "How many times do you hear the {a}?",
        "How often does the {a} sound?",
        "Count how many times the {a} is heard.",
    ),
    "together": (
        "What else sounds while you hear the {a}?",
        "Which sound comes together with the {a}?",
        "What do you hear at the same time as the {a}?",
    ),
    "at": ("What do you hear at {second} seconds?", "Which sound is heard {second} seconds into the recording?"),
    "end": (
        "At what second does the {a} stop?",
        "To the nearest half second, when does the {a} end?",
        "After how many seconds is the {a} over?",
    ),
    "side": (
        "On which side do you hear the {a}?",
        "Is the {a} on the left or on the right?",
        "From which side does the {a} come?",
    ),
    "distance": (
        "Is the {a} near or far?",
        "How far away is the {a}: near or far?",
        "Do you hear the {a} from near or from far?",
    ),
    "grounding": (
        "From when to when do you hear the {a}?",
        "Between which times does the {a} sound?",
        "When does the {a} begin, and when is it over?",
    ),
}
NOT_HEARD = "not heard"  # the answer to a question that the sound does not answer, in the words of one that it does
# in no training scene; as many of each as above
HELD_OUT_WORDINGS: dict[str, tuple[str, ...]] = {
    "what": ("What is making this noise?", "Name the sound.", "Tell me what sounds here.", "What am I hearing?"),
    "what first": (
        "What begins the recording?",
        "Name the earliest sound.",
        "What is heard at the start?",
        "Which sound opens the recording?",
    ),
    "what last": ("Name the sound that starts after all others.", "What begins latest?", "Which sound joins in last?"),
    "presence": (
        "Does this clip contain {noun}?",
        "Is {noun} audible here?",
        "Would a listener notice {noun}?",
        "Does one hear {noun} at any point?",
    ),
    "count": (
        "What is the number of distinct sounds?",
        "Tell me how many sounds occur.",
        "Give the number of sound sources.",
    ),
    "order": (
        "Is it the {a} or the {b} that begins earlier?",
        "Between the {a} and the {b}, what is the earlier one?",
        "Name the earlier of the two: the {a} or the {b}.",
    ),
    "when": (
        "When does the {a} begin, in seconds?",
        "Give the second at which the {a} starts.",
        "How far into the clip, in seconds, is the {a}?",
    ),
    "loudness": (
        "Is it the {a} or the {b} that is louder?",
        "Between the {a} and the {b}, what has more volume?",
        "Name the louder of the two: the {a} or the {b}.",
    ),
    "instrument": ("What is being played?", "Tell me the instrument.", "Somebody plays: what?"),
    "word": ("Repeat the spoken word.", "Write down the word.", "Which word does the voice utter?"),
}
