"""A trained model on lmms-eval's command line, which knows it as `make_some_noise` by the entry point of pyproject.toml.

    python -m lmms_eval --model make_some_noise --model_args pretrained=runs/demo/openaqa --tasks TASK --output_path out

Prompts are those of `stage evaluate`: the sounds, then the task's text; greedy where the task names no temperature. One
process asks all. lmms-eval 0.7 and later: lmms_eval/models/registry_v2.py of github.com/EvolvingLMMs-Lab/lmms-eval.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lmms_eval.api.instance import GenerationResult
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from torch import Tensor

from datamodules.sound_files import Sound
from models.language.generation import Sampling, generate, pad_left
from models.language.likelihood import answer_scores
from models.language.vocabulary import Turn
from stages.hub import find_model, trained_model
from stages.hub.sound_tokenizer import SoundTokenizer
from stages.hub.text_to_sound import check_context

MANIFEST = ModelManifest("make_some_noise", simple_class_path=f"{__name__}.MakeSomeNoise")


class MakeSomeNoise(lmms):
    def __init__(self, pretrained: str, batch_size: int | str = 1, device: str | None = None, **_: Any) -> None:
        """pretrained: a run folder of `openaqa` or `caption`, or an export; the rest is lmms-eval's."""
        super().__init__()
        folders = find_model.find("runs", "", None, pretrained)
        assert folders.language is not None
        where = trained_model.choose_device(device)
        self.model = trained_model.load(folders.language, where)
        self.tokenizer = SoundTokenizer.from_pretrained(folders.tokenizer).to(where)
        self.batch_size = int(batch_size)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The args of a request: text, settings, the function that gives a document's sounds, its number, task, split."""
        answers: list[str] = []
        vocabulary = self.model.vocabulary
        for start in range(0, len(requests), self.batch_size):
            batch = requests[start : start + self.batch_size]
            settings = batch[0].args[1]  # of a task
            prompts = [vocabulary.render(self._turns(request), generate=True).input_ids for request in batch]
            ids, mask = pad_left(prompts, vocabulary.pad_id)
            most, heat = int(settings.get("max_new_tokens") or 256), float(settings.get("temperature") or 0)
            check_context(self.model, ids.shape[1], most, "set max_new_tokens with --gen_kwargs")
            sampling = None
            if heat and settings.get("do_sample", True):
                sampling = Sampling(heat, float(settings.get("top_p") or 1), range(start, start + len(batch)))
            until = settings.get("until") or []
            for written in generate(self.model.lm, vocabulary, ids, mask, most, "text", sampling):
                text = vocabulary.decode(written)
                for end in [until] if isinstance(until, str) else until:
                    text = text.split(end)[0] if end else text
                answers.append(text)
        return answers

    def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
        """The loss of each answer and its end of turn, in nats: of several choices lmms-eval takes the one with the
        least (lmms_eval/api/task.py). Whether it is the greedy answer is not computed, and False.

        Each pair stands in a GenerationResult: 0.7.3 writes a bare one as a text, which it cannot score
        (unwrap_generation_output of lmms_eval/api/instance.py).
        """
        asked = defaultdict(list)
        for number, request in enumerate(requests):
            asked[(request.args[0], *request.args[3:])].append(number)  # text and document: the choices of a question
        losses = [0.0] * len(requests)
        for numbers in asked.values():
            answers = [str(requests[number].args[1]).lstrip() for number in numbers]  # behind lmms-eval's blank
            turns = self._turns(requests[numbers[0]])
            scores = answer_scores(self.model.lm, self.model.vocabulary, turns, answers)
            for number, score in zip(numbers, scores, strict=True):
                losses[number] = -score
        return [GenerationResult((loss, False)) for loss in losses]

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        raise NotImplementedError("make_some_noise: tasks of several rounds are not asked")

    def _turns(self, request: Any) -> list[Turn]:
        text, _, sounds_of, number, task, split = request.args
        segments: list[Any] = []
        for sound in sounds_of(self.task_dict[task][split][number]):
            waveform, rate = _waveform(sound)
            segments += [*self.tokenizer.encode([waveform], rate), "\n"]
        return [Turn("user", [*segments[:-1], f"\n{text}"] if segments else [text])]


def _waveform(sound: Any) -> tuple[Tensor, int]:
    """(C, T) and its rate, Hz, of a file, of torchcodec's decoder, or of {array, sampling_rate}, all as `datasets` gives."""
    if isinstance(sound, str | Path):
        with Sound(Path(sound)) as file:
            return torch.from_numpy(file.read(file.num_samples).T), file.sample_rate
    if hasattr(sound, "get_all_samples"):
        samples = sound.get_all_samples()
        return samples.data, samples.sample_rate
    array = torch.as_tensor(sound["array"], dtype=torch.float32)
    return array if array.dim() == 2 else array[None], int(sound["sampling_rate"])
