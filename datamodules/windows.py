"""Where a recording is cut: the one rule that every stage and every codec follows. No torch.

    frames   |========|========|====|      a window each `frames` latent frames; the last one has what is left
             |========|===========|        and takes in a rest that is too short for a window of its own

A window that is encoded by itself knows nothing of what precedes it, so a stub of a few frames would be a sound without
a past; and padded to its batch it costs as much as a whole one. Windows begin at multiples of `frames`, whatever
follows: codes of a whole window are final as soon as the next one has begun, so a stream gives what the whole gives.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class WindowRule(NamedTuple):
    """Windows of a recording, in latent frames."""

    frames: int  # of a whole window
    shortest: int = 1  # of a window behind another: fewer are part of the one before

    @classmethod
    def from_seconds(cls, seconds: float, sample_rate: int, hop_length: int) -> "WindowRule":
        """A clip of `seconds` is one window: its last frame is rounded up. No window behind another is shorter than a
        quarter of it.
        """
        frames = max(1, math.ceil(seconds * sample_rate / hop_length - 1e-9))
        return cls(frames, -(-frames // 4))

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "WindowRule":
        """facts: of a receipt. Those of earlier versions, which know no shortest window, keep their rule."""
        return cls(facts["window_frames"], facts.get("shortest_window_frames", 1))

    @property
    def longest(self) -> int:
        """Most frames of a window."""
        return self.frames + self.shortest - 1

    def num_windows(self, num_frames: int) -> int:
        """Windows of a recording of num_frames >= 1 frames."""
        return max(1, (num_frames - self.shortest) // self.frames + 1)

    def lengths(self, num_frames: int) -> list[int]:
        """Frames of each window, in their order. Law: they sum to num_frames."""
        whole = self.num_windows(num_frames) - 1
        return [self.frames] * whole + [num_frames - whole * self.frames]

    def facts(self) -> dict[str, int]:
        """The inverse of `from_facts`."""
        return {"window_frames": self.frames, "shortest_window_frames": self.shortest}

    def __str__(self) -> str:
        return (
            f"every {self.frames} frames from the beginning; the last window may be shorter, takes in a rest below "
            f"{self.shortest} frames, and nothing is dropped"
        )


class WindowFormat(NamedTuple):
    """The windows that a codec takes."""

    sample_rate: int  # Hz
    channels: int
    hop_length: int  # samples
    rule: WindowRule
    context_frames: int  # zeros after a partial window that its last frame may see

    @property
    def window_samples(self) -> int:
        return self.rule.frames * self.hop_length

    def padded_samples(self, num_samples: int) -> int:
        """Samples of which a window of num_samples is encoded: whole frames, and those that its last frame may see.
        One that is not longer than a whole window ends with that.
        """
        frames = -(-num_samples // self.hop_length) + self.context_frames
        return (frames if num_samples > self.window_samples else min(self.rule.frames, frames)) * self.hop_length
