"""What a version saves, for later ones to load: `python tests/release_models.py` writes tests/releases/<version>."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hub_matrix
import torch
from torch import Tensor

import diffusers_restore

RELEASES = Path(__file__).parent / "releases"


def restored(pipe: Any, method: str) -> Tensor:
    """What a pipeline makes of a small picture, flat."""
    pipe.set_progress_bar_config(disable=True)
    image = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8)
    generator = torch.Generator().manual_seed(0)
    call: dict[str, Any] = {
        "ddrm": {"operator": "denoise", "sigma_y": 0.1, "num_inference_steps": 3, "generator": generator},
        "cold_diffusion": {"start": 2},
        "rddm": {"num_inference_steps": 3, "generator": generator},
        "pix2pix": {"generator": generator},
    }.get(method, {})
    if method not in ("ddrm", "cold_diffusion", "rddm"):
        image = torch.linspace(-1, 1, 768).reshape(1, 3, 16, 16)
    found: Tensor = pipe(image, **call, output_type="latent").images
    return found.flatten()


def main() -> None:
    """Save a small pipeline of each class, and what it makes of a picture."""
    torch.manual_seed(0)
    for method, pipe in hub_matrix.make_pipelines().items():
        folder = RELEASES / diffusers_restore.__version__ / method
        pipe.save_pretrained(folder)
        (folder / "restored.json").write_text(json.dumps([round(one, 5) for one in restored(pipe, method).tolist()]))
        print(folder)


if __name__ == "__main__":
    main()
