"""The training script: a run that was killed and resumed ends where an unbroken one does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from PIL import Image
from safetensors.torch import load_file

from diffusers_restore import DDRMPipeline

SCRIPT = Path(__file__).parents[1] / "examples" / "train_prior.py"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos" / "holiday"
    folder.mkdir(parents=True)
    for i in range(4):
        smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((200, 150))
        smooth.save(folder / f"{i}.png")
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:200])
    return folder.parent


def train(photos: Path, output: Path, steps: int, *more: str) -> None:
    options = {
        "resolution": 16,
        "train_batch_size": 2,
        "checkpointing_steps": 2,
        "validation_images": 1,
        "lr_warmup_steps": 2,
        "lr_decay_steps": 2,
        "max_train_steps": steps,
        "train_data_dir": photos,
        "output_dir": output,
    }
    flags = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    command = [sys.executable, str(SCRIPT), *flags, "--block_out_channels", "16", "32", *more]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "broken.png" in result.stdout + result.stderr


def test_a_resumed_run_is_an_unbroken_one(photos: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(photos, whole, 4)
    train(photos, broken, 4)
    # As if it had been killed while it wrote its second checkpoint: half a folder under another name.
    shutil.rmtree(broken / "best")
    (broken / "checkpoints" / "checkpoint-4").rename(broken / "checkpoints" / "checkpoint-4.part")
    (broken / "checkpoints" / "checkpoint-4.part" / "model.safetensors").write_bytes(b"half")
    train(photos, broken, 4, "--resume_from_checkpoint", "latest")
    for file in ("checkpoints/checkpoint-4/model.safetensors", "best/unet/diffusion_pytorch_model.safetensors"):
        first, second = (load_file(run / file) for run in (whole, broken))
        assert all(torch.equal(first[key], second[key]) for key in first)
    assert not list(broken.rglob("*.part"))
    steps = [json.loads(line)["step"] for line in (broken / "checkpoints" / "log.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 4]

    stock = DDPMPipeline.from_pretrained(whole / "best")
    assert stock.scheduler.config.prediction_type == "v_prediction"
    assert {p.dtype for p in stock.unet.parameters()} == {torch.float32}
    on_disk = load_file(whole / "best" / "unet" / "diffusion_pytorch_model.safetensors")
    assert {value.dtype for value in on_disk.values()} == {torch.float16}
    pipe = DDRMPipeline.from_pretrained(whole / "best")
    assert pipe(Image.new("RGB", (8, 8)), operator="sr4", num_inference_steps=1).images[0].size == (32, 32)
