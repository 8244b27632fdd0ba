"""The embedded corpus: scenes of effects, music and speech, rendered from a seed; captions and questions are exact.

A diagnostic in the sense of CLEVR (Johnson et al. 2017, arXiv:1612.06890) and DAQA (Fayek and Johnson 2020,
arXiv:1911.12647). No torch is imported before `render` writes its manifest.
"""

from datamodules.diagnostic.render import render
from datamodules.diagnostic.scene import describe

__all__ = ["describe", "render"]
