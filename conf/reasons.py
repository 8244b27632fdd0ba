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
    return {key: list(dict.fromkeys(lines)) for key, lines in texts.items()}


def remarks(text: str) -> dict[str, str]:
    """The remarks of a YAML file by dotted key: above it, beside it, and on the lines on which the latter goes on.

    Such a line begins further right than a key would. Remarks at the beginning of a file are about the file.
    """
    remarks_by_key: dict[str, list[str]] = {}
    sections: list[tuple[int, str]] = []  # indent and key around a line
    above: list[str] = []
    for line in re.sub(r"\A(#.*\n)+", "", text).splitlines():
        remark = REMARK.search(_without_strings(line))
        words = line[remark.start(1) :].strip() if remark else ""
        if match := KEY.match(line):
            sections = [(indent, key) for indent, key in sections if indent < len(match[1])]
            sections.append((len(match[1]), match[2]))
            key = ".".join(name for _, name in sections)
            remarks_by_key[key] = [*above, *([words] if words else [])]
            above = []
        elif remark and not line[: remark.start()].strip():
            column = len(line) - len(line.lstrip())
            if sections and column > sections[-1][0] + 2 and remarks_by_key[key]:
                remarks_by_key[key].append(words)
            else:
                above.append(words)
        elif not line.strip():
            above = []
    return {key: " ".join(lines) for key, lines in remarks_by_key.items() if lines}


def _without_strings(line: str) -> str:
    """The line with its quoted parts blanked: a # in them begins no remark."""
    return re.sub(r"\"[^\"]*\"|'[^']*'", lambda match: "_" * len(match[0]), line)
