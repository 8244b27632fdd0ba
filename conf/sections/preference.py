"""Stage `preference`: of two answers about a sound, one becomes more probable than the other."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from conf.laws import Problem, about
from conf.sections.language import LanguageConf, MixtureConf


@dataclass
class MixtureBesideConf(MixtureConf):
    """Items beside the pairs; none are needed."""

    def laws(self) -> Iterable[Problem]:
        return ()


@dataclass
class PairsConf:
    files: list[str] = about(
        'JSONL files, {"sound": ..., "prompt": ..., "chosen": ..., "rejected": ...} a line; sound: the id of a recording',
        path=True,
    )
    absent: list[Literal["random", "frequent", "cooccurring"]] = about(
        "sounds that a recording with labels has not, and is asked about, each beside one that it has: any, one of the most "
        "frequent, one of those most often heard with its own"
    )
    kinds: list[str] = about(
        "kinds of question of which wrong answers are made: the other one of yes and no, a number beside it, the other "
        "of two sounds that are named"
    )
    swapped: list[str] = about(
        "kinds of question whose answer of another recording is rejected, where it is wrong of this one, as what; caption: "
        "another recording's caption"
    )
    question: str = about(
        "asked about a label that the corpus has no question of the kind `presence` about; with {label}"
    )

    def laws(self) -> Iterable[Problem]:
        if "{label}" not in self.question:
            yield Problem("question", f"{self.question!r} has no {{label}} in it")
        if not (self.files or self.absent or self.kinds or self.swapped):
            yield Problem("", "no pair would be made: files, absent, kinds or swapped, one of them is needed")


@dataclass
class PairLossConf:
    kind: Literal["dpo", "ipo", "simpo"] = about("the loss of a pair; simpo has no reference")
    beta: float = about("how much a difference of log-probabilities counts", 1e-6)
    margin: float = about("simpo: by which the chosen answer is to be ahead", 0.0)
    weight: float = about("of a pair beside a token of text of the cross-entropy", 1e-6)
    chosen_weight: float = about("weight of a token of a chosen answer in the cross-entropy; 0: none", 0.0)


@dataclass
class PreferenceConf(LanguageConf):
    mixture: MixtureBesideConf = about("how often each kind of item comes beside the pairs, which come once")
    pairs: PairsConf = about("where the pairs of answers come from")
    pair_loss: PairLossConf = about("what is made of a pair")

    def laws(self) -> Iterable[Problem]:
        yield from super().laws()
        if self.curriculum:
            yield Problem("curriculum", "[] is allowed: pairs are in no curriculum")
        if self.loss.contrast.weight:
            yield Problem("loss.contrast.weight", f"{self.loss.contrast.weight}; 0 is allowed beside pairs")
        if self.model.attention == "flash_attention_2":
            yield Problem(
                "model.attention",
                "flash_attention_2 takes no mask between the two answers of a pair. Type --model.attention=sdpa",
            )
