"""Trained agents that ship: a folder per environment, laid out like a run's directory.

`snn_rl.publish` writes them; `snn_rl.evaluate` and `snn_rl.play` take them where there is no run of
one's own. Each folder's MODEL_CARD.md says what its agents are and what they score.
"""

from importlib import resources
from pathlib import Path

ROOT = Path(str(resources.files(__name__)))
