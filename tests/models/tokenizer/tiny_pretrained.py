"""Small, randomly initialised tokenizers of `transformers` at the true rates of the published ones."""

from typing import Any

import torch
from transformers import (
    DacConfig,
    DacModel,
    EncodecConfig,
    EncodecModel,
    MimiConfig,
    MimiModel,
    XcodecConfig,
    XcodecModel,
)

RATES = {"mimi": (24_000, 1920, 8), "encodec": (24_000, 320, 8), "dac": (44_100, 512, 9), "xcodec": (16_000, 320, 8)}


def tiny(kind: str) -> Any:
    """RATES has its sample rate (Hz), its hop (samples) and how many codebooks are usual."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _MODELS[kind]()
        for name, buffer in model.named_buffers():
            # transformers leaves codebooks at zero: every sound would have one code
            if name.endswith(("codebook.embed", "codebook.embed_sum")):
                buffer.normal_(std=_SPREAD[kind])
    return model.eval()


_SPREAD = {"mimi": 0.5, "encodec": 0.02, "xcodec": 0.5, "dac": 1.0}  # as far as the latents of noise
_MODELS = {
    "mimi": lambda: MimiModel(
        MimiConfig(
            hidden_size=32, num_filters=2, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=32, codebook_size=64, codebook_dim=8, vector_quantization_hidden_dimension=8,
            num_quantizers=10, upsample_groups=32, sliding_window=20,
        )
    ),
    "encodec": lambda: EncodecModel(
        EncodecConfig(num_filters=2, hidden_size=16, codebook_dim=16, codebook_size=64, num_lstm_layers=1,
                      target_bandwidths=[0.9, 1.8, 3.6, 7.2])
    ),
    "dac": lambda: DacModel(
        DacConfig(encoder_hidden_size=4, decoder_hidden_size=32, downsampling_ratios=[2, 4, 8, 8], codebook_size=64,
                  codebook_dim=4, n_codebooks=9, sampling_rate=44_100)
    ),
    "xcodec": lambda: XcodecModel(
        XcodecConfig(
            codebook_size=64, target_bandwidths=[0.3, 0.6, 1.2, 2.4],
            acoustic_model_config={"model_type": "dac", "encoder_hidden_size": 4, "decoder_hidden_size": 32,
                                   "downsampling_ratios": [8, 5, 4, 2], "upsampling_ratios": [8, 5, 4, 2], "hidden_size": 64},
            semantic_model_config={"model_type": "hubert", "hidden_size": 16, "num_hidden_layers": 1,
                                   "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": [8] * 7,
                                   "num_conv_pos_embedding_groups": 2, "num_conv_pos_embeddings": 4},
        )
    ),
}  # fmt: skip
