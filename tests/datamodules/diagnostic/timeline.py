"""An event of a scene, written down."""

from datamodules.diagnostic.scene import (
    Event,
)

RATE = 22050  # Hz


def event(kind: str, onset: float, gain_db: float = -1.0, seconds: float = 1.0, **values: object) -> Event:
    return Event(
        **(
            {"kind": kind, "onset": onset, "seconds": seconds, "gain_db": gain_db, "pan": 0.0}
            | {"seed": 1, "word": None}
            | values
        )
    )
