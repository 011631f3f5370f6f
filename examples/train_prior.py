#!/usr/bin/env python3
"""Train a small diffusion prior on a folder of photographs, for use with `DDRMPipeline`.

    accelerate launch examples/train_prior.py --train_data_dir photos --output_dir prior

The result is a plain diffusers repository (`DDPMPipeline.from_pretrained("prior")` loads it without this package). The
network is a `UNet2DModel` without attention, so that it takes pictures of any size. It predicts v on a cosine schedule
(arXiv:2202.00512, arXiv:2102.09672): where DDRM asks for x0, an error of the network is then never multiplied by more
than one, while an epsilon network's error is multiplied by sigma_t, about 100 at the start of a chain.

Every random number is a function of (seed, step, rank), so a run that was stopped and resumed with
`--resume_from_checkpoint latest` draws what it would have drawn.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from PIL import Image
from tqdm.auto import tqdm

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_argument_group("data")
    data.add_argument("--train_data_dir", type=Path, required=True, help="folder of photographs, read recursively")
    data.add_argument("--resolution", type=int, default=64, help="side of a training crop, a multiple of 8")
    data.add_argument("--min_scale", type=float, default=0.6, help="smallest rescaling of a photograph before the crop")
    data.add_argument("--max_scale", type=float, default=1.2, help="largest rescaling of a photograph before the crop")
    data.add_argument("--validation_images", type=int, default=8, help="photographs held out to measure denoising")
    model = parser.add_argument_group("model")
    model.add_argument("--block_out_channels", type=int, nargs="+", default=[32, 64, 128, 160])
    model.add_argument("--layers_per_block", type=int, default=1)
    model.add_argument("--prediction_type", choices=["epsilon", "sample", "v_prediction"], default="v_prediction")
    model.add_argument("--beta_schedule", choices=["linear", "squaredcos_cap_v2"], default="squaredcos_cap_v2")
    run = parser.add_argument_group("run")
    run.add_argument("--output_dir", type=Path, required=True, help="where the trained pipeline folder goes")
    run.add_argument("--checkpoint_dir", type=Path, help="where checkpoints go (default: OUTPUT_DIR/checkpoints)")
    run.add_argument("--max_train_steps", type=int, default=20_000)
    run.add_argument("--train_batch_size", type=int, default=16, help="crops per process and step")
    run.add_argument("--learning_rate", type=float, default=4e-4)
    run.add_argument("--lr_warmup_steps", type=int, default=200)
    run.add_argument("--lr_decay_steps", type=int, default=4_000, help="cosine decay at the end, after a constant rate")
    run.add_argument("--max_grad_norm", type=float, default=1.0)
    run.add_argument("--ema_max_decay", type=float, default=0.999)
    run.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no")
    run.add_argument("--checkpointing_steps", type=int, default=500, help="validate and save this often")
    run.add_argument("--checkpoints_total_limit", type=int, default=2)
    run.add_argument("--resume_from_checkpoint", help='"latest" or a checkpoint folder')
    run.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def load_photos(folder: Path) -> list[Image.Image]:
    """All photographs below `folder` as RGB pictures in memory, in the order of their paths; a bad file is skipped."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    photos = []
    for path in tqdm(files, desc="reading photographs"):
        try:
            with Image.open(path) as file:
                photos.append(file.convert("RGB"))
        except OSError as error:
            tqdm.write(f"skipped {path}: {error}")
    if len(photos) < 2:
        raise SystemExit(
            f"--train_data_dir {folder}: two photographs at least are needed ({', '.join(sorted(SUFFIXES))}), "
            f"found {len(photos)}"
        )
    return photos


def random_crop(photo: Image.Image, size: int, scales: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """A randomly rescaled, placed, flipped and turned size x size crop, uint8 of shape (size, size, 3)."""
    lowest = size / min(photo.size)  # a crop can't be larger than the photograph
    scale = math.exp(rng.uniform(math.log(max(scales[0], lowest)), math.log(max(scales[1], lowest))))
    side = min(size / scale, *photo.size)
    left, top = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
    crop = photo.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    array = np.rot90(np.asarray(crop), rng.integers(4))
    return array[:, ::-1] if rng.integers(2) else array


def to_tensor(arrays: list[np.ndarray]) -> torch.Tensor:
    """uint8 (H, W, 3) arrays of one size -> float (B, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def learning_rate_factor(step: int, args: argparse.Namespace) -> float:
    """Linear warm-up, constant, then a cosine decay to 1 %: a longer run repeats a shorter one up to its decay."""
    warmup = min(1.0, (step + 1) / max(1, args.lr_warmup_steps))
    progress = (step - (args.max_train_steps - args.lr_decay_steps)) / max(1, args.lr_decay_steps)
    return warmup * (0.01 + 0.99 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2)


@torch.no_grad()
def denoising_psnr(unet: UNet2DModel, scheduler: DDPMScheduler, photos: torch.Tensor) -> dict[str, float]:
    """PSNR in dB of the network's one-step x0 estimate at noise levels 15, 25 and 50 (of 255)."""
    levels = ((1 - scheduler.alphas_cumprod) / scheduler.alphas_cumprod).sqrt()
    noise = torch.randn(photos.shape, generator=torch.Generator().manual_seed(0)).to(photos.device)
    figures = {}
    for sigma in (15, 25, 50):
        timestep = int((levels - sigma / 127.5).abs().argmin())
        alpha = scheduler.alphas_cumprod[timestep].to(photos.device)
        noisy = alpha.sqrt() * photos + (1 - alpha).sqrt() * noise
        output = unet(noisy, timestep).sample
        if scheduler.config.prediction_type == "epsilon":
            estimate = (noisy - (1 - alpha).sqrt() * output) / alpha.sqrt()
        elif scheduler.config.prediction_type == "sample":
            estimate = output
        else:
            estimate = alpha.sqrt() * noisy - (1 - alpha).sqrt() * output
        error = (estimate.clamp(-1, 1) - photos).square().mean(dim=(1, 2, 3))
        figures[f"psnr_{sigma}"] = float((10 * torch.log10(4 / error)).mean())
    return figures


def save_aside(target: Path, write) -> None:
    """Write a folder under another name and rename it, so that a killed run leaves no half of one."""
    aside = target.with_name(target.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    write(aside)
    shutil.rmtree(target, ignore_errors=True)
    aside.rename(target)


def main() -> None:
    args = parse_args()
    accelerator = Accelerator(mixed_precision=args.mixed_precision)
    checkpoints = args.checkpoint_dir or args.output_dir / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    photos = load_photos(args.train_data_dir)
    # Held out at equal distances in the order of names, so that both ends of a sorted folder are in it.
    held_out = set(np.linspace(0, len(photos) - 1, min(args.validation_images, len(photos) // 2)).astype(int).tolist())
    validation = to_tensor(
        [random_crop(photos[i], 128, (1.0, 1.0), np.random.default_rng(i)) for i in sorted(held_out)]
    ).to(accelerator.device)
    photos = [photo for i, photo in enumerate(photos) if i not in held_out]

    torch.manual_seed(args.seed)
    levels = len(args.block_out_channels)
    unet = UNet2DModel(
        sample_size=args.resolution,
        block_out_channels=tuple(args.block_out_channels),
        layers_per_block=args.layers_per_block,
        down_block_types=("DownBlock2D",) * levels,
        up_block_types=("UpBlock2D",) * levels,
        norm_num_groups=16,
        add_attention=False,
    ).to(memory_format=torch.channels_last)
    scheduler = DDPMScheduler(beta_schedule=args.beta_schedule, prediction_type=args.prediction_type)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.learning_rate, weight_decay=1e-2)
    lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, args))
    ema = EMAModel(unet.parameters(), decay=args.ema_max_decay, use_ema_warmup=True, power=0.75)
    ema.to(accelerator.device)
    unet, optimizer = accelerator.prepare(unet, optimizer)
    accelerator.register_for_checkpointing(lr_scheduler, ema)

    first_step = 0
    if args.resume_from_checkpoint:
        saved = sorted(checkpoints.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name.rpartition("-")[2]))
        if args.resume_from_checkpoint != "latest":
            saved = [Path(args.resume_from_checkpoint)]
        if saved:
            accelerator.load_state(str(saved[-1]))
            first_step = int(saved[-1].name.rpartition("-")[2])
    started, best = time.time(), -math.inf
    log = checkpoints / "log.jsonl"
    if first_step and log.exists():
        best = max((json.loads(line).get("psnr_25", best) for line in log.read_text().splitlines()), default=best)

    def export(target: Path) -> None:
        ema.store(unet.parameters())
        ema.copy_to(unet.parameters())
        exported = UNet2DModel.from_config(accelerator.unwrap_model(unet).config)
        exported.load_state_dict(accelerator.unwrap_model(unet).state_dict())
        DDPMPipeline(unet=exported.half(), scheduler=scheduler).save_pretrained(target)
        ema.restore(unet.parameters())

    losses: list[torch.Tensor] = []
    bar = tqdm(
        range(first_step, args.max_train_steps),
        initial=first_step,
        total=args.max_train_steps,
        disable=not accelerator.is_main_process,
    )
    unet.train()
    for step in bar:
        rng = np.random.default_rng([args.seed, step, accelerator.process_index])
        chosen = rng.integers(len(photos), size=args.train_batch_size)
        scales = (args.min_scale, args.max_scale)
        x0 = to_tensor([random_crop(photos[i], args.resolution, scales, rng) for i in chosen])
        x0 = x0.contiguous(memory_format=torch.channels_last).to(accelerator.device)
        noise_generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        noise = torch.randn(x0.shape, generator=noise_generator).to(x0)
        timesteps = torch.randint(
            scheduler.config.num_train_timesteps, (len(x0),), generator=noise_generator, device="cpu"
        ).to(x0.device)
        noisy = scheduler.add_noise(x0, noise, timesteps)
        if args.prediction_type == "epsilon":
            target = noise
        elif args.prediction_type == "sample":
            target = x0
        else:
            target = scheduler.get_velocity(x0, noise, timesteps)
        with accelerator.autocast():
            prediction = unet(noisy, timesteps).sample
        loss = torch.nn.functional.mse_loss(prediction.float(), target)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(unet.parameters(), args.max_grad_norm)
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()
        ema.step(unet.parameters())
        losses.append(loss.detach())

        done = step + 1
        if done % args.checkpointing_steps and done != args.max_train_steps:
            continue
        accelerator.wait_for_everyone()
        save_state = checkpoints / f"checkpoint-{done}"
        if accelerator.is_main_process:
            ema.store(unet.parameters())
            ema.copy_to(unet.parameters())
            figures = denoising_psnr(accelerator.unwrap_model(unet).eval(), scheduler, validation)
            ema.restore(unet.parameters())
            unet.train()
            record = {
                "step": done,
                "loss": float(torch.stack(losses).mean()),
                "seconds": time.time() - started,
                **figures,
            }
            with log.open("a") as file:
                file.write(json.dumps(record) + "\n")
            bar.write(json.dumps(record))
            save_aside(save_state, lambda path: accelerator.save_state(str(path)))
            saved = sorted(checkpoints.glob("checkpoint-*[0-9]"), key=lambda path: int(path.name.rpartition("-")[2]))
            for old in saved[: -args.checkpoints_total_limit]:
                shutil.rmtree(old)
            if figures["psnr_25"] >= best:  # equal where a run was stopped between its log and its export
                best = figures["psnr_25"]
                save_aside(args.output_dir / "best", export)
        losses.clear()
        accelerator.wait_for_everyone()


if __name__ == "__main__":
    main()
