"""Corpora: disk to Lhotse cuts, one file a corpus (published/), or anybody's own (folder.py)."""

FOLDER = (
    "stage prepare folder ROOT --metadata FILE.csv --name={}   "
    "(CSV columns: path, and caption, label, question, answer, kind, conversation, split)"
)
