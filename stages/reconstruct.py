"""Stage `reconstruct`: what the tokenizer keeps of a sound, beside its baselines: the tokenizer's table (Table I of the paper).

latent error   normalised, a single sample and the mean of several, for each number of function evaluations
sound          mel and multi-resolution STFT distance, kernel audio distance with a named embedder; SI-SDR, PESQ and STOI where they are asked for
probe          accuracy of a linear classifier on the codes, and on the latents
speed          real-time factors, in the receipt and not in the artifact: the same run has the same report, but never the same times
references     the VAE alone (no tokenizer can be better), the mean latent, the tokens of another clip
others         other tokenizers, ours or of `transformers`, each at its bitrate: their sound beside the same recordings
"""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torchmetrics import Metric

from conf.errors import UsageError
from conf.sections.tokenizer import ReconstructConf
from datamodules.audio import resample
from datamodules.cuts import Cut
from datamodules.hashing import choose_by_hash
from datamodules.latents import collate_latents, latent_windows
from datamodules.reconstruction import ReconstructionDataModule, SoundBatch, choose_windows
from datamodules.store import chunks
from datamodules.windows import WindowRule
from models.metrics.codebook_use import CodebookUse, code_histogram
from models.metrics.kernel_distance import KernelAudioDistance
from models.metrics.probe import linear_probe
from models.metrics.reconstruction import LatentError, MelDistance, MultiResolutionStftDistance
from models.metrics.saved_state import add_saved_state, compute_alone, reset_metrics, saved_state
from models.metrics.signal_scores import SignalMetric
from models.tokenizer.tokenizer import LatentTokenizer
from stages.base import Exported, Parents, Row, RowStage
from stages.hub import artifacts, weights
from stages.hub.pretrained_tokenizer import is_pretrained
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.reports import real_time_factor, reconstruction_table
from stages.reports.formatting import write_report
from stages.runs import corpora, receipts
from stages.runs.state import run_folder
from stages.scoring import metric_registry

PROBE_RECORDINGS = 20_000  # counts of 8196 codes each: 0.7 GB
DECODERS = {"tokenizer": "flow matching", "decoder_finetuning": "fine-tuned", "tokenizer_mse": "MSE"}


class Reconstruct(RowStage[int]):
    conf: ReconstructConf
    unit = "batches"

    def __init__(self, stage: str, conf: ReconstructConf, parents: Parents, folder: Path) -> None:
        super().__init__(stage, conf, parents, folder)
        # before anything is loaded
        metric_registry.require(metric_registry.chosen(conf.signal, ("sound",)), None, lambda _: None)
        latents = parents["latents"]
        self.facts = latents.facts
        self.rule = WindowRule.from_facts(self.facts)
        self.statistics = load_file(latents.artifact / "statistics.safetensors")
        self.codec = artifacts.load_codec(latents.artifact / "codec")
        ours = [name for name in DECODERS if name in parents and not is_pretrained(parents[name].artifact)]
        tokenizers = {DECODERS[name]: self._load(name) for name in ours}
        self.tokenizers: Any = nn.ModuleDict(tokenizers)
        # the stage `decoder_finetuning` has the codes of `tokenizer`
        self.of_codes = {name: one for name, one in tokenizers.items() if name != DECODERS["decoder_finetuning"]}
        self.sampling = {DECODERS[name]: parents[name].facts["sampling"] for name in ours}
        self.others = self._others()
        cuts = chunks.read(latents.folder / "chunks")
        self.train_cuts = cuts.of_split("train")
        self.test_cuts = cuts.of_split("test")
        self.chosen = choose_windows(self.test_cuts, self.rule, conf.clips_per_group)
        if not self.chosen:
            raise UsageError(
                f"reconstruct: no recording of {', '.join(conf.data.corpora)} is in the split 'test'. Prepare the corpus "
                "with a column `split`, or with --split_by=COLUMN --test=VALUE"
            )
        self.embedder = weights.load_embedder(conf.embedder) if conf.embedder else None
        self.groups = list(dict.fromkeys(window.group for window in self.chosen))
        self.scores: Any = nn.ModuleDict({_key(*row): nn.ModuleDict(self._metrics(*row)) for row in self._table_rows()})
        books = {name: (one.quantizer.codebook_size, one.quantizer.levels) for name, one in self.of_codes.items()}
        books |= {name: (one.codebook_size, tuple(one.facts["levels"])) for name, one in self.others.items()}
        self.codebooks: Any = nn.ModuleDict({name: CodebookUse(*book) for name, book in books.items()})

        roots = {name: Path(receipt["root"]) for name, receipt in corpora.corpora(conf.data).items()}
        self.data = ReconstructionDataModule(self.chosen, roots, self.facts, conf.batch_size, conf.data.num_workers)
        self.expected = range(len(self.data.batches))

    def _others(self) -> dict[str, SoundTokenizer]:
        """By the name of their row: the experiment's own tokenizer where it is another's, and those of the key `others`."""
        folders = [self.parents["tokenizer"].folder] if is_pretrained(self.parents["tokenizer"].artifact) else []
        for name in self.conf.others:
            folder = run_folder(replace(self.conf, parents={"tokenizer": name}), "tokenizer")
            if receipts.read(folder) is None:
                raise UsageError(
                    f"reconstruct: others names {name}, and {folder} has no finished tokenizer. Make it:   "
                    f"stage run tokenizer --experiment={name} --source=kyutai/mimi"
                )
            folders.append(folder)
        others: dict[str, SoundTokenizer] = {}
        for folder in folders:
            one = SoundTokenizer.from_runs(folder, None)
            source = one.facts.get("source") or str(folder.absolute().parent)
            # a key of torch's ModuleDict has no dot
            name = f"{Path(source).name} x {len(one.facts['levels'])}".replace(".", "_")
            others[name if name not in others else f"{name} ({len(others) + 1})"] = one
        return others

    def rows(self) -> dict[int, Row]:
        """Those that were made with the same other tokenizers: a run that goes on makes the rest again."""
        hashes = self._hashes()
        return {key: row for key, row in super().rows().items() if row.get("others", {}) == hashes}

    def _hashes(self) -> dict[str, str]:
        return {name: one.hash for name, one in self.others.items()}

    def on_predict_start(self) -> None:
        super().on_predict_start()
        for one in self.others.values():
            one.to(self.device)

    def _load(self, name: str) -> LatentTokenizer:
        parent = self.parents["tokenizer" if name == "decoder_finetuning" else name]
        return artifacts.load_tokenizer(
            parent.artifact, self.parents[name].artifact if name == "decoder_finetuning" else None
        )

    def datamodule(self) -> ReconstructionDataModule:
        self.data.done = set(self.rows())
        return self.data

    def key(self, row: Row) -> int:
        return row["batch"]

    def _table_rows(self) -> list[tuple[str, int, str]]:
        """(decoder, function evaluations, condition); the references have 0 evaluations."""
        rows = [("VAE alone", 0, "sample"), ("mean latent", 0, "sample")]
        for name, tokenizer in self.tokenizers.items():
            steps = self.conf.steps if tokenizer.objective == "flow" else [1]
            rows += [(name, count, "sample") for count in steps]
            if self.conf.mean_of > 1 and tokenizer.objective == "flow":
                rows += [(name, count, "mean") for count in steps]
            rows += [(name, steps[0], "shuffled tokens")]
        return rows + [(name, 0, "sample") for name in self.others]

    def _metrics(self, decoder: str, steps: int, condition: str) -> dict[str, Any]:
        metrics: dict[str, Any] = {}
        if decoder not in self.others:
            metrics["latent_nmse"] = LatentError(self.statistics["std"])
        if self._is_heard(decoder, steps, condition):
            metrics |= {"mel": MelDistance(self.facts["sample_rate"]), "stft": MultiResolutionStftDistance()}
            metrics |= {name: SignalMetric(name, self.facts["sample_rate"]) for name in self.conf.signal}
            if self.embedder is not None:
                metrics["kad"] = KernelAudioDistance()
        return metrics

    def _is_heard(self, decoder: str, steps: int, condition: str) -> bool:
        if not self.conf.sound or condition != "sample":
            return False
        return decoder not in ("flow matching", "fine-tuned") or steps in self.conf.sound_steps

    @torch.no_grad()
    def predict_rows(self, batch: SoundBatch) -> list[Row]:
        """One row: the states of all metrics after this batch alone, which export adds up."""
        reset_metrics(self)
        latents, num_frames = batch.latents.latents, batch.latents.num_frames
        real = None if self.embedder is None or not self.conf.sound else self._embed(batch.waveform, batch)
        self._score(batch, ("VAE alone", 0, "sample"), latents, real)
        self._score(batch, ("mean latent", 0, "sample"), self.statistics["mean"].to(latents).expand_as(latents), real)
        for name, tokenizer in self.tokenizers.items():
            codes = tokenizer.encode(latents, num_frames)
            valid = torch.arange(codes.codes.shape[1], device=self.device) < codes.num_codes[:, None]
            if name in self.of_codes:
                self.codebooks[name].update(codes.codes, valid)
            flow = tokenizer.objective == "flow"
            for steps in self.conf.steps if flow else [1]:
                samples = [
                    self._decode(name, tokenizer, codes, num_frames, steps, f"{batch.number}-{number}")
                    for number in range(self.conf.mean_of if flow else 1)
                ]
                self._score(batch, (name, steps, "sample"), samples[0], real)
                if len(samples) > 1:
                    self._score(batch, (name, steps, "mean"), torch.stack(samples).mean(0), real)
            order = torch.arange(len(num_frames)).roll(1)
            others = type(codes)(codes.codes[order], codes.num_codes[order])
            frames = torch.minimum(num_frames, num_frames[order])
            steps = self.conf.steps[0] if flow else 1
            decoded = self._decode(name, tokenizer, others, frames, steps, f"{batch.number}-0")
            shuffled: Any = self.scores[_key(name, steps, "shuffled tokens")]
            shuffled["latent_nmse"].update(decoded, latents[:, : decoded.shape[1]], frames)
        if self.conf.sound:
            for name in self.others:
                self._score_sound(batch, self.scores[_key(name, 0, "sample")], self._through(name, batch), real)
        scores = {
            key: {name: saved_state(metric) for name, metric in metrics.items()} for key, metrics in self.scores.items()
        }
        codebooks = {name: saved_state(metric) for name, metric in self.codebooks.items()}
        row = {"batch": batch.number, "group": batch.group, "scores": scores, "codebooks": codebooks}
        return [row | {"others": self._hashes()} if self.others else row]

    def _through(self, name: str, batch: SoundBatch) -> Tensor:
        """The sounds of a batch (B, C, T) through another tokenizer, at its rate and channels and back."""
        one, rate, channels = self.others[name], self.facts["sample_rate"], self.facts["channels"]
        counts = batch.num_samples.tolist()
        codes = one.encode([sound[:, :n].cpu() for sound, n in zip(batch.waveform, counts, strict=True)], rate)
        for row in codes:
            ids = torch.tensor([row], device=self.device)
            self.codebooks[name].update(ids, torch.ones_like(ids, dtype=torch.bool))
        sounds = [resample(sound.cpu(), one.sample_rate, rate) for sound in one.decode(codes, seed=self.conf.seed)]
        length = batch.waveform.shape[2]
        sounds = [functional.pad(sound.expand(channels, -1), (0, length))[:, :length] for sound in sounds]
        return torch.stack(sounds).to(self.device)

    def _decode(
        self, name: str, tokenizer: LatentTokenizer, codes: Any, num_frames: Tensor, steps: int, position: str
    ) -> Tensor:
        seed = zlib.crc32(f"{self.conf.seed} {position}".encode())
        generator = torch.Generator(device=self.device).manual_seed(seed)
        shape = (len(num_frames), int(num_frames.max()), self.facts["latent_dim"])
        noise = torch.randn(shape, generator=generator, device=self.device)
        sampling = self.sampling[name] | {"num_steps": steps}
        return tokenizer.decode(codes.codes, codes.num_codes, num_frames, noise=noise, **sampling)

    def _score(self, batch: SoundBatch, row: tuple[str, int, str], decoded: Tensor, real: Tensor | None) -> None:
        metrics: Any = self.scores[_key(*row)]
        latents, num_frames = batch.latents.latents, batch.latents.num_frames
        metrics["latent_nmse"].update(decoded, latents, num_frames)
        if "mel" not in metrics:
            return
        with torch.autocast(self.device.type, enabled=False):  # half the precision would be heard
            self._score_sound(batch, metrics, self.codec.decode(decoded.float()), real)

    def _score_sound(self, batch: SoundBatch, metrics: Any, sound: Tensor, real: Tensor | None) -> None:
        with torch.autocast(self.device.type, enabled=False):
            for one, true, count in zip(sound, batch.waveform, batch.num_samples.tolist(), strict=True):
                for name in ("mel", "stft", *self.conf.signal):
                    metrics[name].update(one[None, :, :count], true[None, :, :count])
            if real is not None:
                metrics["kad"].update(real, real=True)
                metrics["kad"].update(self._embed(sound, batch), real=False)

    def _embed(self, sound: Tensor, batch: SoundBatch) -> Tensor:
        assert self.embedder is not None
        counts = batch.num_samples.tolist()
        with torch.autocast(self.device.type, enabled=False):
            embedded = [
                self.embedder(one[:, :count], self.facts["sample_rate"])
                for one, count in zip(sound, counts, strict=True)
            ]
        return torch.stack(embedded)

    def _table(self) -> dict[str, Any]:
        """All saved batches, in their order, whichever rank made them: no rank waits for another here."""
        batches, counts = list(self.rows().values()), Counter(window.group for window in self.chosen)
        reset_metrics(self)
        for row in batches:
            for name, metric in self.codebooks.items():
                add_saved_state(metric, row["codebooks"][name])
        codebook = {name: _values(name, metric) for name, metric in self.codebooks.items()}
        table: list[dict[str, Any]] = []
        for group in self.groups:
            reset_metrics(self)
            for decoder, steps, condition in self._table_rows():
                metrics: Any = self.scores[key := _key(decoder, steps, condition)]
                line = {"group": group, "decoder": decoder, "steps": steps, "condition": condition}
                for name, metric in metrics.items():
                    for row in batches:
                        if row["group"] == group:
                            add_saved_state(metric, row["scores"][key][name])
                    line |= _values(name, metric)
                table.append(line)
        return {"clips": dict(counts), "rows": table, "codebook": codebook}

    def export(self, artifact: Path) -> Exported:
        facts = self.parents["tokenizer"].facts
        self.to(self.trainer.strategy.root_device)
        report = self._table() | {
            "experiment": self.conf.experiment,
            "facts": facts,
            "embedder": self.conf.embedder,
            "mean_of": self.conf.mean_of,
            "signal": self.conf.signal,
            "others": {
                name: {key: one.facts[key] for key in ("token_rate", "bitrate", "codebook_size")} | {"hash": one.hash}
                for name, one in self.others.items()
            },
            "probe": self._probe() if self.conf.probe else {},
        }
        text = reconstruction_table.markdown(report)
        write_report(artifact, report, text)
        speed = self._speed() if self.conf.speed_repeats else None
        print("\n".join([text, *(real_time_factor.markdown(speed) if speed else [])]))
        metrics = {key: report[key] for key in ("clips", "rows", "codebook", "probe")}
        return Exported(facts, metrics | {"speed": speed})

    def _speed(self) -> dict[str, Any]:
        """Of the longest of the chosen windows."""
        longest = max(self.chosen, key=lambda window: latent_windows(window.cut, self.rule)[window.number].num_frames)
        waveform = self.data.dataset.read(0, [longest]).waveform.to(self.device)
        steps = {
            name: self.conf.steps if tokenizer.objective == "flow" else [1]
            for name, tokenizer in self.tokenizers.items()
        }
        return real_time_factor.measure(
            waveform, self.facts["sample_rate"], self.codec, dict(self.tokenizers.items()), self.sampling, steps,
            self.conf.speed_repeats,
        )  # fmt: skip

    @torch.no_grad()
    def _probe(self) -> dict[str, dict[str, Any]]:
        """By corpus: accuracy of a linear classifier of recordings with one label, trained on the training split.

        PROBE_RECORDINGS of a split at most, chosen by hash.
        """
        accuracies: dict[str, dict[str, Any]] = {}
        for corpus in self.conf.data.corpora:
            labelled = [
                [cut for cut in cuts if cut.custom["corpus"] == corpus and len(cut.custom["labels"]) == 1]
                for cuts in (self.train_cuts, self.test_cuts)
            ]
            splits = [
                choose_by_hash(cuts, PROBE_RECORDINGS, lambda cut: cut.id) if len(cuts) > PROBE_RECORDINGS else cuts
                for cuts in labelled
            ]
            labels = [[cut.custom["labels"][0] for cut in cuts] for cuts in splits]
            if not labels[1] or len(set(labels[0])) < 2:
                continue
            row: dict[str, Any] = {"train": len(labels[0]), "test": len(labels[1]), "classes": len(set(labels[0]))}
            features = [torch.stack([_pooled(cut) for cut in cuts]) for cuts in splits]
            row["latents"] = linear_probe(features[0], labels[0], features[1], labels[1])
            for name, tokenizer in self.of_codes.items():
                features = [self._histograms(tokenizer, cuts) for cuts in splits]
                row[name] = linear_probe(features[0], labels[0], features[1], labels[1])
            accuracies[corpus] = row
        return accuracies

    def _histograms(self, tokenizer: LatentTokenizer, cuts: Sequence[Cut]) -> Tensor:
        """(len(cuts), codes): log(1 + count) of each code of a recording, level by level."""
        quantizer, rows = tokenizer.quantizer, []
        for start in range(0, len(cuts), self.conf.batch_size):
            windows = [latent_windows(cut, self.rule) for cut in cuts[start : start + self.conf.batch_size]]
            batch = collate_latents([window for one in windows for window in one])
            codes = tokenizer.encode(batch.latents.to(self.device), batch.num_frames.to(self.device))
            sizes = [len(one) for one in windows]
            for ids, counts in zip(codes.codes.split(sizes), codes.num_codes.split(sizes), strict=True):
                valid = torch.arange(ids.shape[1], device=self.device) < counts[:, None]
                rows.append(code_histogram(ids[valid], quantizer.codebook_size, quantizer.levels).cpu())
        return torch.stack(rows)


def _pooled(cut: Cut) -> Tensor:
    """Mean and standard deviation over the frames of a recording's latents (2 D)."""
    latents = torch.from_numpy(chunks.load_array(cut).astype("float32"))
    return torch.cat([latents.mean(0), latents.std(0, correction=0)])


def _values(name: str, metric: Metric) -> dict[str, float]:
    """The value of a metric under its name, or several under theirs."""
    value = compute_alone(metric)
    return {key: float(one) for key, one in (value if isinstance(value, dict) else {name: value}).items()}


def _key(decoder: str, steps: int, condition: str) -> str:
    return f"{decoder}|{steps}|{condition}"
