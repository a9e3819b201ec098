"""A sweep of image classification in parallel processes."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import snn_rl


def test_a_sweep_of_seeds(
    tmp_path: Path, command: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="extra sweep is missing")
    random = np.random.default_rng(0)
    for half in ("train", "val"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / half / name
            folder.mkdir(parents=True)
            for k in range(2):
                pixels = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{k}.png")
    settings = ["dataset=imagenet", "image_size=8", "net=vgg5", "T=1", "stages=none", "threads=1"]
    settings += ["fit.epochs=1", "fit.batch_size=2", "data=pictures", "seed=0,1"]
    settings += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    environment = {"PYTHONPATH": str(Path(snn_rl.__file__).parents[1])}
    done = command("snn_rl.classify", "-m", *settings, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        assert (tmp_path / f"runs/imagenet-vgg5/seed{seed}/report.md").is_file()
