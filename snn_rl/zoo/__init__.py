"""Trained agents included in the package, one folder per environment, laid out as run directories.

`snn_rl.publish` writes these folders. `evaluate`, `play`, and `export` use their agents if the run
has no such stage and neither seed nor run_dir is set. MODEL_CARD.md describes the agents and their
scores.
"""

from importlib import resources
from pathlib import Path

ROOT = Path(str(resources.files(__name__)))
