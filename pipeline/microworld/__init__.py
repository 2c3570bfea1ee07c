"""The embedded micro-world: an invented valley with exact ground truth, written out as ordinary files.

`write(settings, folder)` writes a raw web crawl, conversations, problems and evaluations; nothing outside
`pipeline.stages.world` imports this package, so the training code cannot know that it trains on the demo.
"""

from pipeline.microworld.settings import Settings
from pipeline.microworld.write import write

__all__ = ["Settings", "write"]
