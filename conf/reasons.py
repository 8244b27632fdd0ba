"""`stage show --why`: the help of a key, and the reason of its value: the remark beside it or above it in YAML."""

import re
from collections.abc import Sequence
from pathlib import Path

from conf import layer_files
from conf.schema import keys

KEY = re.compile(r"^( *)([\w.-]+):")
REMARK = re.compile(r"(?:^|\s)#\s?(.*)$")


def reasons(unit: str, presets: Sequence[str], files: Sequence[str], origins: dict[str, str]) -> dict[str, list[str]]:
    """ "optimizer.weight_decay" -> ["of matrices ...", "not on norms, codebook"]: a key's help, then the reasons.

    origins: the layer that set each key; the remark of another layer on its value follows that layer's name.
    """
    texts = {key: [field.metadata["help"]] for key, field in keys(unit).items()}
    for path, layer in (*layer_files(unit, presets), *((Path(file), file) for file in files)):
        for key, text in remarks(path.read_text()).items():
            is_set_here = layer == origins.get(key, layer)
            texts.setdefault(key, []).append(text if is_set_here else f"({layer}: {text})")
    for key in origins.keys() - texts.keys():  # a name within a mapping
        mapping = max((path for path in texts if key.startswith(f"{path}.")), key=len)
        texts[key] = texts[mapping][:1]
    return {key: list(dict.fromkeys(lines)) for key, lines in texts.items()}


def remarks(text: str) -> dict[str, str]:
    """The remarks of a YAML file by dotted key: above it, beside it, and on the lines on which the latter goes on.

    Such a line begins further right than a key would. A remark in a list is of the list's key, behind the item or the
    item's key that it is about. Remarks at the beginning of a file are about the file.
    """
    remarks_by_key: dict[str, list[str]] = {}
    sections: list[tuple[int, str]] = []  # indent and key around a line
    in_list: int | None = None  # indent of the items
    key = ""
    above: list[str] = []
    for line in re.sub(r"\A(#.*\n)+", "", text).splitlines():
        remark = REMARK.search(_without_strings(line))
        code, words = (line[: remark.start()], line[remark.start(1) :].strip()) if remark else (line, "")
        column = len(line) - len(line.lstrip())
        if not line.strip():
            above = []
        elif not code.strip():
            if sections and column > sections[-1][0] + 2 and remarks_by_key[key]:
                remarks_by_key[key].append(words)
            else:
                above.append(words)
        elif code.lstrip().startswith("- ") or (in_list is not None and column > in_list):
            in_list = column if code.lstrip().startswith("- ") else in_list
            if words or above:
                remarks_by_key[key][-1:] = [f"{line};" for line in remarks_by_key[key][-1:]]
                about = code.strip().removeprefix("- ").replace('"', "")
                remarks_by_key[key].append(f"{about}: {' '.join([*above, words]).strip()}")
            above = []
        elif match := KEY.match(line):
            in_list = None
            sections = [(indent, name) for indent, name in sections if indent < column]
            sections.append((column, match[2]))
            key = ".".join(name for _, name in sections)
            remarks_by_key[key] = [*above, *([words] if words else [])]
            above = []
    return {key: " ".join(lines) for key, lines in remarks_by_key.items() if lines}


def _without_strings(line: str) -> str:
    """The line with its quoted parts blanked: a # in them begins no remark."""
    return re.sub(r"\"[^\"]*\"|'[^']*'", lambda match: "_" * len(match[0]), line)
