"""The same three clips, which a test has written as a.wav, b.wav and c.wav, in the formats of the field."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from lhotse import CutSet, Recording, SupervisionSegment
from lhotse.shar import SharWriter

ROWS = [
    {"path": f"{name}.wav", "caption": f"the sound {name}", "label": label, "split": split}
    for name, label, split in (("a", "dog", "train"), ("b", "cat", "train"), ("c", "dog", "test"))
]


def webdataset(clips: Path, to: Path) -> str:
    """Two shards, the second with one sound."""
    to.mkdir()
    for number, rows in enumerate((ROWS[:2], ROWS[2:])):
        with tarfile.open(to / f"shard-{number:02d}.tar", "w") as tar:
            for row in rows:
                tar.add(clips / row["path"], row["path"])
                content = json.dumps({key: row[key] for key in row if key != "path"}).encode()
                member = tarfile.TarInfo(row["path"].replace(".wav", ".json"))
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return str(to / "shard-{00..01}.tar")


def parquet(clips: Path, to: Path) -> str:
    """A file a split, a row group a row, classes by number, as `datasets` writes them."""
    to.mkdir()
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "audio": {"_type": "Audio"}}
    for split in ("train", "test"):
        rows = [row for row in ROWS if row["split"] == split]
        columns = {
            "audio": [{"bytes": (clips / row["path"]).read_bytes(), "path": row["path"]} for row in rows],
            "text": [row["caption"] for row in rows],
            "label": [["cat", "dog"].index(row["label"]) for row in rows],
        }
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        written = pa.table(columns).replace_schema_metadata(metadata)
        pq.write_table(written, to / f"{split}-00000-of-00001.parquet", row_group_size=1)
    return str(to)


def lhotse_cuts(clips: Path) -> CutSet:
    cuts = []
    for row in ROWS:
        recording = Recording.from_file(clips / row["path"], recording_id=row["path"].removesuffix(".wav"))
        cut = recording.to_cut().with_id(recording.id)
        cut.supervisions = [SupervisionSegment(f"{cut.id}-0", recording.id, 0, cut.duration, text=row["caption"])]
        cut.custom = {"label": row["label"], "split": row["split"]}
        cuts.append(cut)
    return CutSet.from_cuts(cuts)


def shar(clips: Path, to: Path) -> str:
    """Two shards. Lhotse encodes each cut anew: other bytes, and the same samples."""
    to.mkdir()
    with SharWriter(str(to), fields={"recording": "flac"}, shard_size=2) as writer:
        for cut in lhotse_cuts(clips):
            writer.write(cut)
    return str(to)
