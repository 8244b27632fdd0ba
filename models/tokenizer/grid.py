"""Which frames a token stands for, at any rational rate."""

from fractions import Fraction
from typing import TypeVar

from torch import Tensor

from models.errors import ModelError

Count = TypeVar("Count", int, Tensor)


class TokenGrid:
    """Token n stands for the frames f with n <= f / step < n + 1, and is known at the last of them.

    step is a Fraction, in frames a token, with a denominator up to 1000: the rate is off by at most a millionth or so.
    It is the same everywhere, so that the tokens of a prefix do not depend on what follows. A clip's last token may
    stand for fewer frames; every frame has a token.
    """

    def __init__(self, frame_rate: float, token_rate: float) -> None:
        """Rates in Hz. Raises ModelError for more than one token a frame."""
        if not 0 < token_rate <= frame_rate:
            raise ModelError(
                f"token_rate {token_rate:g} Hz; above 0 and up to the frame rate, {frame_rate:g} Hz, is allowed: "
                "a frame has one token at most"
            )
        self.frame_rate = Fraction(frame_rate)
        self.step = Fraction(frame_rate / token_rate).limit_denominator(1000)
        self.token_rate = self.frame_rate / self.step

    @staticmethod
    def rate(frame_rate: float, stride: int | None, bitrate: float | None, bits_per_token: float) -> float:
        """Token rate (Hz) from exactly one of stride (frames a token) and bitrate (bits a second).

        Raises ModelError for both, for none, and for a bitrate above one token a frame.
        """
        if (stride is None) == (bitrate is None):
            raise ModelError(f"stride {stride}, bitrate {bitrate}: exactly one of them is allowed")
        if stride is not None:
            return frame_rate / stride
        assert bitrate is not None
        rate = bitrate / bits_per_token
        if rate > frame_rate:
            raise ModelError(
                f"bitrate {bitrate:g} is above one token a frame, {frame_rate * bits_per_token:g} bits a second with "
                f"{bits_per_token:g} bits a token: lower it, or enlarge the codebook"
            )
        return rate

    def num_tokens(self, num_frames: Count) -> Count:
        """Tokens of a clip: up to its last frame's, so that every frame has one and none is without frames."""
        return self.token_of_frame(num_frames - 1) + 1

    def num_complete_tokens(self, num_frames: Count) -> Count:
        """Tokens of a clip of so many frames that no further frame can change."""
        return num_frames * self.step.denominator // self.step.numerator

    def num_frames(self, num_tokens: Count) -> Count:
        """Most frames that so many tokens stand for."""
        return -(-num_tokens * self.step.numerator // self.step.denominator)

    def token_of_frame(self, frame: Count) -> Count:
        return frame * self.step.denominator // self.step.numerator

    def first_frame(self, token: Count) -> Count:
        return self.num_frames(token)

    def last_frame(self, token: Count) -> Count:
        return self.num_frames(token + 1) - 1

    def phase(self, frame: Tensor) -> Tensor:
        """How far into its token's time a frame lies, in [0, 1): float32."""
        return (frame * self.step.denominator % self.step.numerator) / self.step.numerator
