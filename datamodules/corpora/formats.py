"""The field's formats, read in place: WebDataset's tars, Hugging Face's parquet, Lhotse's manifests and Shar -> rows,
as those of a table of one's own, whose paths are parts of the archives (sound_files.py).
"""

import glob
import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from datamodules.containers import CONTAINERS
from datamodules.corpora.published.records import SOUNDS
from datamodules.corpora.tables import COLUMNS, MetadataRow, read_json, texts_of
from datamodules.errors import DataError
from datamodules.sound_files import Part, holds_bytes, open_binary, open_parquet, read_parquet_column, read_part, url

Columns = Mapping[str, str | None]  # column of a table -> the field that is it; None: the one of its name
SPLIT_NAME = re.compile(r"(?:^|[/_.-])(train|training|validation|valid|val|dev|test|eval)(?:[/_.-]|$)", re.IGNORECASE)
TEXTS = {".txt": "caption", ".cls": "label"}  # of a member beside the sound


class FormatRows(NamedTuple):
    root: Path  # that the rows' paths are relative to
    rows: list[MetadataRow]


def read_webdataset(pattern: str, columns: Columns) -> FormatRows:
    """Tars by a pattern as 'shards-{000..099}.tar' or 'shards/*.tar': members of one key are one recording, its sound
    beside .json (fields), .txt (caption) or .cls (label).

    Raises DataError for a tar that cannot be read in place, and for a key without a sound or with several.
    """
    paths = _expand(pattern)
    rows: list[MetadataRow] = []
    root = _common(paths)
    for path in paths:
        name = os.path.relpath(path, root)
        for key, members in _samples(path):
            where = f"{path}, {key}"
            sounds = [member for member in members if _suffix(member.name) in SOUNDS]
            if len(sounds) > 1:  # a sound beside the video that it is of
                sounds = [member for member in sounds if _suffix(member.name) not in CONTAINERS]
            if len(sounds) != 1:
                raise DataError(
                    f"{where}: {len(sounds)} sounds in {', '.join(m.name for m in members)}; one is read. The key of a "
                    "member ends at the first dot of its name, and members of one key lie one after another"
                )
            fields = _member_fields(path, members, columns, where)
            fields["path"] = f"{name}::bytes={sounds[0].offset_data}+{sounds[0].size}"
            rows += _rows(fields, columns, where, sounds[0].name, len(rows))
    if not rows:
        raise DataError(f"{pattern}: no member is in its tars, the first {paths[0]}")
    return FormatRows(root, rows)


def read_parquet(folder: str, audio: str, columns: Columns) -> FormatRows:
    """Parquet with a column of sounds, as `datasets` writes it: {"bytes", "path"}. Its features name class labels; a
    file's name, as train-00000-of-00002.parquet, is the split where no column is.

    folder: of the files, or one file, or a pattern. Raises DataError for a column that is missing.
    """
    is_of_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", folder) and not Path(folder).exists()
    files = Path(_download(folder) if is_of_hub else folder)
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise DataError("parquet needs pyarrow: pip install 'make-some-noise[parquet]'") from None
    paths = sorted(files.rglob("[!.]*.parquet")) if files.is_dir() else _expand(folder)
    if not paths:
        raise DataError(f"{folder}: no .parquet is in it")
    rows: list[MetadataRow] = []
    root = _common(paths)
    for path in paths:
        file, name = open_parquet(path).file, os.path.relpath(path, root)
        others = [column for column in file.schema_arrow.names if column != audio]
        if audio not in file.schema_arrow.names:
            raise DataError(f"{path}: no column {audio!r}; it has {', '.join(others)}. Name it: --audio=COLUMN")
        _require_sounds(file.schema_arrow.field(audio).type, f"{path}: the column {audio!r}")
        if not file.metadata.num_rows:
            continue
        names = _class_names(file.schema_arrow.metadata)
        split = SPLIT_NAME.search(name)
        is_nested = file.schema_arrow.field(audio).type.num_fields
        paths_inside = read_parquet_column(path, f"{audio}.path") if is_nested else [None] * file.metadata.num_rows
        is_external = not holds_bytes(path, audio)  # `datasets` writes the path alone of files that it was given
        table = file.read(columns=others).to_pylist()
        for number, fields in enumerate(table):
            for column, classes in names.items():
                if isinstance(fields.get(column), int) and fields[column] >= 0:
                    fields[column] = classes[fields[column]]
            if split and not columns.get("split") and "split" not in fields:
                fields["split"] = split[1].lower()
            inside = paths_inside[number] or f"{os.path.splitext(name)[0]}/{number}"
            fields["path"] = f"{path if url(path) else path.absolute()}::row={number}&column={audio}"
            if is_external:
                fields["path"] = str(_beside(inside, path, root))
            rows += _rows(fields, columns, f"{path}, row {number}", inside, len(rows))
    if not rows:
        raise DataError(f"{folder}: no row is in its parquet, the first {paths[0]}")
    root = _common([Path(row.values["path"].partition("::")[0]) for row in rows])
    for row in rows:
        row.values["path"] = os.path.relpath(row.values["path"], root)
    return FormatRows(root, rows)


def _require_sounds(kind: Any, where: str) -> None:
    """Raises DataError for a column of parquet whose type holds no files of sound."""
    import pyarrow as pa

    is_file = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    fields = {kind.field(number).name for number in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
    if not is_file and not {"bytes", "path"} <= fields:
        raise DataError(
            f"{where} is of the type {kind}; the bytes of files are read, or {{bytes, path}} as datasets writes it"
        )


def _beside(name: str, parquet: Path, root: Path) -> Path:
    """A file that a parquet names: beside it, under the root, or from here."""
    candidates = [folder / name for folder in (parquet.parent, root, Path())]
    return next((path for path in candidates if path.is_file()), candidates[0]).absolute()


def read_lhotse(path: Path, columns: Columns) -> FormatRows:
    """A manifest of Lhotse's cuts or recordings, or a folder in Shar's format: each cut is a recording, of its part and
    its channel. The text of a supervision is a caption, unless a field of `columns` says otherwise.

    Raises DataError for cuts that are mixed, changed when they are loaded, or of several files.
    """
    from lhotse import CutSet, RecordingSet
    from lhotse.serialization import load_manifest_lazy_or_eager

    if path.is_dir():
        return _read_shar(path, columns)
    try:
        manifest = load_manifest_lazy_or_eager(path)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no manifest of Lhotse's ({str(error).splitlines()[0]})") from None
    if isinstance(manifest, RecordingSet):
        manifest = CutSet.from_cuts(recording.to_cut() for recording in manifest)
    if not isinstance(manifest, CutSet):
        raise DataError(f"{path}: cuts or recordings are expected, here {type(manifest).__name__}")
    sounds = [(cut, *_sound_of(cut, path)) for cut in manifest]
    root = _common([file for _, file, _ in sounds])
    rows: list[MetadataRow] = []
    for cut, file, part in sounds:
        fields = {"path": f"{os.path.relpath(file, root)}{part}"}
        rows += _cut_rows(cut, fields, columns, f"{path}, {cut.id}", len(rows))
    return FormatRows(root, rows)


def _read_shar(folder: Path, columns: Columns) -> FormatRows:
    from lhotse import CutSet

    rows: list[MetadataRow] = []
    manifests = sorted(folder.glob("cuts.*.jsonl*"))
    if not manifests:
        raise DataError(f"{folder}: no cuts.*.jsonl of Lhotse's Shar is in it")
    for manifest in manifests:
        tar = folder / f"recording.{manifest.name.split('.')[1]}.tar"
        if not tar.is_file():
            raise DataError(f"{manifest}: {tar.name}, its sounds, is not beside it")
        members = {key: members for key, members in _samples(tar, last_dot=True)}
        for cut in CutSet.from_jsonl_lazy(manifest):
            sounds = [member for member in members.get(cut.id, ()) if _suffix(member.name) != ".json"]
            if not sounds:
                raise DataError(f"{manifest}: {tar.name} holds no sound of {cut.id}")
            fields = {"path": f"{tar.name}::bytes={sounds[0].offset_data}+{sounds[0].size}"}
            rows += _cut_rows(cut, fields, columns, f"{manifest}, {cut.id}", len(rows))
    return FormatRows(folder, rows)


def _sound_of(cut: Any, manifest: Path) -> tuple[Path, str]:
    """The file of a cut, and which part of it the cut is."""
    from lhotse import MonoCut, MultiCut

    where = f"{manifest}, {cut.id}"
    if not isinstance(cut, MonoCut | MultiCut) or not cut.has_recording:
        raise DataError(f"{where}: a {type(cut).__name__}; cuts of one recording are read")
    recording = cut.recording
    (source, *others) = recording.sources
    if others or source.type != "file" or recording.transforms:
        raise DataError(
            f"{where}: a recording of {len(others) + 1} sources, of the type {source.type}, with "
            f"{len(recording.transforms or ())} transforms; one file that is not changed is read. Save it with "
            "`lhotse shar export`, or cut_set.save_audios()"
        )
    file = _of_manifest(Path(source.source), manifest)
    part = []
    if cut.start or abs(cut.duration - recording.duration) > 1e-6:
        part.append(f"samples={round(cut.start * recording.sampling_rate)}+{cut.num_samples}")
    channels = cut.channel if isinstance(cut.channel, list) else [cut.channel]
    if len(channels) < recording.num_channels:
        if len(channels) > 1:
            raise DataError(f"{where}: {len(channels)} of {recording.num_channels} channels; one or all are read")
        part.append(f"channel={recording.channel_ids.index(channels[0])}")
    return file, f"::{'&'.join(part)}" if part else ""


def _of_manifest(file: Path, manifest: Path) -> Path:
    """A manifest's file: absolute, from here, beside the manifest, or under the root of a corpus of this project."""
    roots = [Path(), manifest.parent]
    if (receipt := manifest.parent / "receipt.json").is_file():
        roots.append(Path(json.loads(receipt.read_text(encoding="utf-8")).get("root", "")))
    candidates = [root / file for root in roots]
    return next((path for path in candidates if Part.parse(path).file.is_file()), candidates[1])


def _cut_rows(cut: Any, fields: dict[str, Any], columns: Columns, where: str, number: int) -> list[MetadataRow]:
    custom = {key: value for key, value in (cut.custom or {}).items() if not hasattr(value, "to_dict")}
    labels = custom.pop("labels", None) if "label" not in custom else None
    fields |= {key: value for key, value in custom.items() if key not in ("corpus", "sha256", "size", "metadata")}
    if isinstance(custom.get("source"), str):
        fields["source"] = custom["source"].removeprefix(f"{custom.get('corpus')}-")
    asked = [sup for sup in cut.supervisions if (sup.custom or {}).get("task") == "question"]
    captions = [sup.text for sup in cut.supervisions if sup.text and sup not in asked]
    if captions and "caption" not in fields and not columns.get("caption"):
        fields["caption"] = captions
    if labels is not None and not asked:
        fields["label"] = labels
    rows = _rows(fields, columns, where, cut.id, number)
    for sup in asked:
        question = {key: sup.custom[key] for key in ("question", "answer", "kind")}
        label = {"label": labels} if labels else {}
        rows += _rows({"path": fields["path"]} | question | label, {}, where, cut.id, number)
    return rows


def _rows(fields: dict[str, Any], columns: Columns, where: str, name: str, number: int) -> list[MetadataRow]:
    """fields: of one recording, as they are in their format, and "path". number: of the rows before."""
    renamed = {field: column for column, field in columns.items() if field}
    if missing := [field for field in renamed if field not in fields]:
        raise DataError(f"{where}: no field {missing[0]!r}; it has {', '.join(fields)}")
    values = {renamed.get(field, field): value for field, value in fields.items()}
    return [MetadataRow(number + 1, row, name) for row in texts_of(values, where)]


def _samples(path: Path, last_dot: bool = False) -> Iterator[tuple[str, list[tarfile.TarInfo]]]:
    """The members of a tar by their key: the path up to the first dot of the name (WebDataset), or to its last. What
    macOS notes of a file in ._NAME is no member of a sample.
    """
    try:
        with open_binary(path) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            members = [member for member in tar if member.isfile() and not Path(member.name).name.startswith("._")]
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{path} cannot be read in place ({error}): a tar that is not compressed is expected") from None

    def key(member: tarfile.TarInfo) -> str:
        folder, _, name = member.name.removeprefix("./").rpartition("/")
        stem = os.path.splitext(name)[0] if last_dot else name.partition(".")[0]
        return f"{folder}/{stem}" if folder else stem

    for name, group in itertools.groupby(members, key):
        yield name, list(group)


def _member_fields(path: Path, members: Sequence[tarfile.TarInfo], columns: Columns, where: str) -> dict[str, Any]:
    read = {*COLUMNS, *filter(None, columns.values())}
    fields: dict[str, Any] = {}
    for member in members:
        suffix = _suffix(member.name)
        if suffix != ".json" and suffix not in TEXTS:
            continue
        content = read_part(Part(path, (member.offset_data, member.size)))
        try:
            text = content.decode("utf-8-sig")
            values = read_json(text, read) if suffix == ".json" else {TEXTS[suffix]: text.strip()}
        except ValueError as error:
            raise DataError(f"{where}: {member.name} is no UTF-8 or no JSON ({error})") from None
        if not isinstance(values, dict):
            raise DataError(f'{where}: {member.name} is one object, as {{"caption": "rain"}}')
        fields |= {key: _both(key, fields.get(key), value) for key, value in values.items()}
    return fields


def _both(key: str, one: Any, other: Any) -> Any:
    """The captions or labels of two members; of other fields that of the last one."""
    if one is None or one == other or key not in TEXTS.values():
        return other
    return [text for value in (one, other) for text in (value if isinstance(value, list) else [value])]


def _download(name: str) -> str:
    """The parquet of a data set of the hub."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return snapshot_download(name, repo_type="dataset", allow_patterns="*.parquet")
    except (RepositoryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"{name}: no such folder, and the hub has no such data set, or is out of reach ({reason})"
        ) from None


def _class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column -> the names of its classes, of what `datasets` keeps in a schema."""
    features = json.loads((metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    return {name: item["names"] for name, item in features.items() if isinstance(item, dict) and "names" in item}


def _expand(pattern: str) -> list[Path]:
    """The files of a pattern: {000..099}, {a,b}, * and ?. Raises DataError where one is not there."""
    match = re.search(r"\{(\d+)\.\.(\d+)\}|\{([^{}]*,[^{}]*)\}", pattern)
    if match:
        width = len(match[1] or "")
        items = [f"{n:0{width}d}" for n in range(int(match[1]), int(match[2]) + 1)] if match[1] else match[3].split(",")
        return [path for item in items for path in _expand(pattern[: match.start()] + item + pattern[match.end() :])]
    path = Path(pattern)
    if url(path) or path.is_file():
        return [path]
    if path.is_dir():
        pattern = f"{pattern}/*.tar"
    paths = [Path(name) for name in sorted(glob.glob(pattern))]
    if not paths:
        raise DataError(f"{pattern}: no such file. Patterns: 'shards-{{000..099}}.tar', 'shards/*.tar'")
    return paths


def _common(paths: Sequence[Path]) -> Path:
    """The folder that all files lie in."""
    if not paths:
        raise DataError("no recordings")
    if url(paths[0]):
        return Path(os.path.commonpath([path.parent for path in paths]))
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


def _suffix(name: str) -> str:
    return PurePosixPath(name).suffix.lower()
