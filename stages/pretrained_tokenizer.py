"""Stage `tokenizer` where `source` names another's sound tokenizer: it is fetched and kept, and nothing is trained.

What follows reads it as it reads our own: the receipt has its rate, its codebooks, its commit on the hub and its
weights' hash.
"""

import math
from pathlib import Path
from typing import Any

from conf.sections.tokenizer import TokenizerConf
from datamodules.hashing import file_digest
from datamodules.sampler import DealtBatches
from datamodules.windows import WindowRule
from stages.base import Exported, Parents, Stage
from stages.hub import pretrained_tokenizer


class PretrainedTokenizerStage(Stage):
    conf: TokenizerConf
    trains = False

    def __init__(self, stage: str, conf: TokenizerConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        chosen = conf.pretrained
        assert conf.source is not None, "else stages.tokenizer trains one"
        self.tokenizer, self.config = pretrained_tokenizer.build(conf.source, chosen.revision, chosen.codebooks)

    def datamodule(self) -> DealtBatches[Any]:
        return DealtBatches([])

    def predict_step(self, batch: Any, batch_idx: int) -> None:
        """There is no batch: Lightning asks for the method."""

    def export(self, artifact: Path) -> Exported:
        pretrained_tokenizer.save(artifact, self.tokenizer, self.config)
        tokenizer = self.tokenizer
        rule = WindowRule.from_seconds(self.conf.pretrained.window_seconds, tokenizer.sample_rate, tokenizer.hop_length)
        weights = sorted((artifact / "model").glob("*.safetensors"))
        facts = {
            "sample_rate": tokenizer.sample_rate,
            "channels": tokenizer.channels,
            "hop_length": tokenizer.hop_length,
            "frame_rate": tokenizer.frame_rate,
            **rule.facts(),
            "codebook_size": tokenizer.codebook_size,
            "num_codebooks": tokenizer.num_codebooks,
            "levels": list(tokenizer.levels),
            "token_rate": tokenizer.frame_rate,
            "bitrate": tokenizer.bitrate,
            "kind": tokenizer.model.config.model_type,
            "source": self.config["source"],
            "revision": self.config["revision"],
            "weights": {path.name: file_digest(path) for path in weights},
        }
        codes_per_second = tokenizer.bitrate / math.log2(tokenizer.codebook_size)
        print(
            f"{self.stage:<14} {facts['kind']}: {tokenizer.frame_rate:.2f} Hz x {tokenizer.num_codebooks} codebooks of "
            f"{tokenizer.codebook_size}, {codes_per_second:.1f} codes a second, {tokenizer.bitrate / 1000:.2f} kbps"
        )
        return Exported(facts, {"codes_per_second": codes_per_second})
