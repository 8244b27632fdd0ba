"""Corpora: disk to Lhotse cuts, one file a corpus (published/). SOURCES says where the ones that a user must fetch come from."""

FOLDER = (
    "stage prepare folder ROOT --metadata FILE.csv --name={}   "
    "(CSV columns: path, and caption, label, question, answer, kind, conversation, split)"
)

# name -> (what it is, where people get it)
SOURCES = {
    "openaqa": (
        "5.6 M questions and answers about AudioSet, FSD50K, VGGSound, Clotho, AudioCaps clips (LTU)",
        "github.com/YuanGongND/ltu; the audio from each data set's own site",
    ),
    "wavcaps": (
        "400 k captioned clips of FreeSound, BBC, SoundBible, AudioSet",
        "huggingface.co/datasets/cvssp/WavCaps",
    ),
    "fma": ("106,574 music tracks with genres", "github.com/mdeff/fma"),
}
