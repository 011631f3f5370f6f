"""The training loop: resumed runs are unbroken ones, two processes are one with accumulation, and what is written."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
import psutil
import pytest
import torch
from conftest import free_port
from filelock import FileLock
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from warm import PATIENCE, Python

from diffusers_restore import DDRMPipeline, ResidualUNet2DModel
from diffusers_restore.training.checkpoints import checkpoints, load_checkpoint, save_checkpoint
from diffusers_restore.training.config import DataConfig, LoopConfig, OptimizerConfig, PriorConfig, build
from diffusers_restore.training.data import open_data
from diffusers_restore.training.loop import train as train_networks
from diffusers_restore.training.objectives import Objective
from diffusers_restore.training.processes import make_accelerator
from diffusers_restore.training.step import check_compiled, make_optimizers, optimizer_step
from diffusers_restore.training.stopping import StopRequest

# Each run is a process of its own, forked from a server that has imported everything and computed nothing.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(
    ["diffusers_restore.training.prior.training", "torch.utils.tensorboard", "test_training"]
)

TOY: dict[str, Any] = {
    "resolution": 16,
    "validation_images": 2,
    "block_out_channels": (16, 32),
    "dropout": 0.1,
    "random_flip": True,
    "lr_warmup_steps": 2,
    "lr_decay_steps": 4,
    "learning_rate": 1e-3,
    "train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "max_train_steps": 12,
    "checkpointing_steps": 3,
    "logging_steps": 1,
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(9):
        smooth = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((48, 40))
        smooth.save(folder / f"{i}.png")
    return folder


# --- runs in processes of their own ---------------------------------------------------------------------------------


def run_training(values: Mapping[str, Any], environment: Mapping[str, str], log: str, half_write: int) -> None:
    os.environ.update(environment)
    begin_process(log, half_write)
    from diffusers_restore.training.prior import train_prior

    values = dict(values)
    if values.pop("hang", False):
        hang_after_a_signal()
    train_prior(build(PriorConfig, values))


def hang_after_a_signal() -> None:
    """Let the step in which a signal comes last for ever."""
    from diffusers_restore.training.stopping import StopRequest

    agreed = StopRequest.agreed

    def slow(request: StopRequest) -> int:
        while agreed(request):
            time.sleep(0.01)
        return 0

    StopRequest.agreed = slow  # type: ignore[method-assign]


def begin_process(log: str, half_write: int) -> None:
    """Print to a file; be killed in the middle of writing tensor file number `half_write`."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN = 0  # five seconds after each epoch of a stream
    from diffusers_restore.training import checkpoints as module

    written = 0
    save_file = module.save_file

    def killed(tensors: Any, path: Path) -> None:
        nonlocal written
        written += 1
        save_file(tensors, path)
        if written == half_write:
            os.truncate(path, path.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    module.save_file = killed


def start(values: Mapping[str, Any], processes: int, log: Path, half_write: int = 0) -> list[Any]:
    port = free_port()
    started = []
    for rank in range(processes):
        environment = {"OMP_NUM_THREADS": "1"}
        if processes > 1:
            environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        arguments = (dict(values), environment, str(log), half_write)
        started.append(FORKSERVER.Process(target=run_training, args=arguments))
    for process in started:
        process.start()
    return started


def wait(started: list[Any], log: Path) -> None:
    for process in started:
        process.join(120 * PATIENCE)
        assert process.exitcode == 0, log.read_text()


def kill(started: list[Any]) -> None:
    for process in started:
        process.kill()
    for process in started:
        process.join(60)
    # The others may have noticed first that the main process is gone.
    assert started[0].exitcode == -signal.SIGKILL
    assert all(process.exitcode for process in started)


def train(photos: Path, output: Path, processes: int = 1, **more: Any) -> None:
    values = TOY | {"train_data_dir": str(photos), "output_dir": str(output)} | more
    log = output.with_name(output.name + ".log")
    wait(start(values, processes, log), log)


def final(output: Path) -> dict[str, Any]:
    """All that a run leaves behind, but for times."""
    tensors, state = load_checkpoint(checkpoints(output)[-1])
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    exported = load_file(output / "unet" / "diffusion_pytorch_model.safetensors")
    return {
        "tensors": tensors | {"exported": exported},
        "state": state,
        "metrics": [{key: value for key, value in line.items() if key != "seconds_per_step"} for line in lines],
        "tensorboard": tensorboard(output),
        "samples": {path.name: path.read_bytes() for path in sorted((output / "samples").iterdir())},
    }


def tensorboard(output: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(output / "logs" / "train"))
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name != "seconds_per_step"]
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in names}


def assert_equal(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first["tensors"].keys() == second["tensors"].keys()
    for file, tensors in first["tensors"].items():
        assert tensors.keys() == second["tensors"][file].keys()
        for key, value in tensors.items():
            assert torch.equal(value, second["tensors"][file][key]), (file, key)
    for what in ("state", "metrics", "tensorboard", "samples"):
        assert first[what] == second[what]


def wait_for_step(output: Path, step: int, started: list[Any]) -> None:
    """Until the log tells of a step; it is written at every step of these runs."""
    log = output / "metrics.jsonl"
    deadline = time.monotonic() + 60 * PATIENCE
    while time.monotonic() < deadline and all(process.is_alive() for process in started):
        if log.exists() and f'"step": {step},' in log.read_text():
            return
        time.sleep(0.002)
    raise AssertionError(f"the run ended, or hung, before step {step}")


@pytest.mark.parametrize(("processes", "precision", "optimizer"), [(1, "no", "adamw"), (2, "bf16", "muon")])
def test_a_run_that_was_killed_ends_bit_for_bit_as_an_unbroken_one(
    photos: Path, tmp_path: Path, processes: int, precision: str, optimizer: str
) -> None:
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "broken.log"
    train(photos, whole, processes, mixed_precision=precision, optimizer=optimizer)

    resumed = TOY | {"train_data_dir": str(photos), "output_dir": str(broken), "mixed_precision": precision}
    resumed["optimizer"] = optimizer
    resumed["resume_from_checkpoint"] = "latest"
    moments = random.Random(f"{processes} {precision}")
    for steps in ((1, 5), (6, 9)):
        started = start(resumed, processes, log)
        wait_for_step(broken, moments.randint(*steps), started)
        time.sleep(moments.uniform(0, 0.03))
        kill(started)
    # And a third time, in the middle of a checkpoint, which leaves half a file.
    started = start(resumed, processes, log, half_write=2)
    started[0].join(120 * PATIENCE)
    kill(started)
    assert list(broken.glob("checkpoint-*.part"))
    wait(start(resumed, processes, log), log)

    assert_equal(final(whole), final(broken))
    assert not list(broken.glob("*.part"))
    assert [path.name for path in checkpoints(broken)] == ["checkpoint-9", "checkpoint-12"]
    assert f"on\n{processes} process" in (whole / "README.md").read_text()


@pytest.mark.parametrize(("processes", "number"), [(1, signal.SIGINT), (1, signal.SIGTERM), (2, signal.SIGTERM)])
def test_a_run_that_is_stopped_goes_on_where_it_was(
    photos: Path, tmp_path: Path, processes: int, number: signal.Signals
) -> None:
    """A signal, of one process only or of its readers too, writes a checkpoint between two others and two logs."""
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "broken.log"
    more = {"checkpointing_steps": 12, "logging_steps": 5, "resume_from_checkpoint": "latest"}
    train(photos, whole, processes, **more)
    values = TOY | {"train_data_dir": str(photos), "output_dir": str(broken)} | more
    workers = {"dataloader_num_workers": int((processes, number) == (1, signal.SIGTERM))}
    started = start(values | workers, processes, log)
    wait_for_step(broken, 5, started)
    readers = psutil.Process(started[-1].pid).children(recursive=True)
    assert len(readers) == 2 * workers["dataloader_num_workers"]  # the server that forks readers, and the reader
    for pid in [*(reader.pid for reader in readers), started[-1].pid]:
        os.kill(pid, number)
    for process in started:
        process.join(120 * PATIENCE)
        assert process.exitcode == 128 + number, log.read_text()
    (checkpoint,) = checkpoints(broken)
    assert 5 <= int(checkpoint.name.removeprefix("checkpoint-")) < 12
    printed = log.read_text()
    assert "stopping after this step, with a checkpoint; the same again stops at once" in printed or processes == 2
    stopped = f"stopped after step {checkpoint.name.removeprefix('checkpoint-')} of 12, with a checkpoint in {broken}"
    assert f"{stopped}; to go on, give the same command with --resume_from_checkpoint latest" in printed
    assert not (broken / "model_index.json").exists()  # an unbroken run hasn't measured here
    wait(start(values, processes, log), log)
    assert_equal(final(whole), final(broken))
    printed = log.read_text()
    bars = [line for line in printed.replace("\r", "\n").splitlines() if "%|" in line]
    assert bars[-1].startswith("100%|")
    assert "| 12/12 [" in bars[-1]
    assert (
        f"done, in {broken}; try:\n  diffusers-restore restore photo.png -o out.png --model {broken} --task" in printed
    )


def test_handlers_are_put_back_and_other_threads_have_none() -> None:
    accelerator = make_accelerator(LoopConfig(logger="none"))
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest(accelerator) as request:
        assert signal.getsignal(signal.SIGINT) not in before
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.agreed() == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)  # which launchers send at once
        assert request.agreed() == signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    with ThreadPoolExecutor() as threads:

        def inside() -> list[Any]:
            with StopRequest(accelerator) as request:
                assert request.agreed() == 0
                return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

        assert threads.submit(inside).result() == before
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as for `nohup`
    try:
        with StopRequest(accelerator):
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before[0])


def test_a_second_signal_stops_at_once(photos: Path, tmp_path: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "run.log"
    values = TOY | {"train_data_dir": str(photos), "output_dir": str(output), "max_train_steps": 10_000}
    (process,) = start(values | {"hang": True}, 1, log)
    wait_for_step(output, 1, [process])
    for _ in range(2):
        os.kill(process.pid, signal.SIGTERM)
        time.sleep(1.2)
    process.join(60 * PATIENCE)
    assert process.exitcode == -signal.SIGTERM
    assert not checkpoints(output)


def test_a_residual_network_resumes_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "broken.log"
    values = {"network": "residual", "layers_per_block": (1,), "optimizer": "muon", "mixed_precision": "bf16"}
    values |= {"max_train_steps": 4, "checkpointing_steps": 2, "resume_from_checkpoint": "latest"}
    train(photos, whole, **values)
    killed = start(TOY | {"train_data_dir": str(photos), "output_dir": str(broken)} | values, 1, log, half_write=5)
    killed[0].join(120 * PATIENCE)
    kill(killed)
    assert [path.name for path in checkpoints(broken)] == ["checkpoint-2"]
    train(photos, broken, **values)
    assert_equal(final(whole), final(broken))
    pipe = DDRMPipeline.from_pretrained(whole)
    assert type(pipe.unet) is ResidualUNet2DModel
    assert (whole / "unet" / "diffusers_restore.py").is_file()


def test_two_processes_train_as_one_does_with_accumulation(photos: Path, tmp_path: Path) -> None:
    # Gradients are summed in another order: float tolerance.
    one, two = tmp_path / "one", tmp_path / "two"
    train(photos, one, 1, gradient_accumulation_steps=4)
    train(photos, two, 2, gradient_accumulation_steps=2)
    first, second = final(one), final(two)
    assert [line["step"] for line in first["metrics"]] == [line["step"] for line in second["metrics"]]
    for a, b in zip(first["metrics"], second["metrics"], strict=True):
        assert a == pytest.approx(b, rel=2e-4)


EXAMPLE = Path(__file__).parents[1] / "examples" / "train_prior.py"


def words(photos: Path, output: Path) -> list[str]:
    values = TOY | {"block_out_channels": "16,32", "max_train_steps": 2, "checkpointing_steps": 2, "logger": "none"}
    values |= {"train_data_dir": photos, "output_dir": output}
    del values["random_flip"]
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def pushed(output: Path, python: Python) -> None:
    """What another process finds on the Hub: the pipeline, and neither checkpoints nor logs."""
    script = (
        "from diffusers import DDPMPipeline; from huggingface_hub import HfApi\n"
        "print(*sorted(HfApi().list_repo_files('tester/toy')))\n"
        "print(DDPMPipeline.from_pretrained('tester/toy').unet.config.sample_size)"
    )
    files, size = python.run("-c", script, check=True).stdout.splitlines()
    assert size == "16"
    assert set(files.split()) - {".gitattributes"} == {
        "README.md",
        "model_index.json",
        "samples.png",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    }


def test_the_example_trains_on_two_processes(photos: Path, tmp_path: Path, hub_python: Python) -> None:
    """By accelerate, and it pushes; RDDM's example trains by torchrun."""
    output = tmp_path / "toy"
    launched = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launched += ["--main_process_port", str(free_port())]
    result = hub_python.run(*launched, EXAMPLE, *words(photos, output), "--push_to_hub", check=True)
    assert "on\n2 processes (micro-batches of 2, 2 for a step)" in (output / "README.md").read_text()
    assert "pushed to http" in result.stdout + result.stderr
    pushed(output, hub_python)

    # Plain diffusers, in a process that has no diffusers_restore.
    script = (
        "import sys; sys.modules['diffusers_restore'] = None\n"
        "from diffusers import DDPMPipeline, DiffusionPipeline\n"
        f"for kind in (DDPMPipeline, DiffusionPipeline):\n"
        f"    pipe = kind.from_pretrained({str(output)!r})\n"
        "    pipe.set_progress_bar_config(disable=True)\n"
        "    print(pipe(num_inference_steps=2).images[0].size)"
    )
    plain = hub_python.run("-c", script, check=True)
    assert plain.stdout.split("\n")[:2] == ["(16, 16)"] * 2

    pipe = DDRMPipeline.from_pretrained(output)
    assert pipe(Image.new("RGB", (8, 8)), operator="sr4", num_inference_steps=1).images[0].size == (32, 32)


def test_fewer_processes_than_were_asked_for_are_an_error(photos: Path, tmp_path: Path, python: Python) -> None:
    # Without GPUs and --multi_gpu, accelerate starts one process and says nothing.
    launched = ["-m", "accelerate.commands.launch", "--num_processes", "2", EXAMPLE]
    result = subprocess.run(  # a start of its own: the launcher's command line is read from the list of processes
        [sys.executable, *launched, *words(photos, tmp_path / "output")],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300 * PATIENCE,
    )
    assert result.returncode != 0
    assert "Error: 2 processes were asked for, but 1 is running" in result.stderr
    assert "--multi_gpu --num_processes 2" in result.stderr
    assert not (tmp_path / "output").exists()


def test_a_missing_token_is_noticed_before_the_training(photos: Path, tmp_path: Path, hub_python: Python) -> None:
    command = (EXAMPLE, *words(photos, tmp_path / "toy"), "--push_to_hub")
    result = hub_python.run(*command, environment={"HF_TOKEN": ""})
    assert result.returncode == 1
    assert "push_to_hub" in result.stderr
    assert not (tmp_path / "toy").exists()


# --- checkpoints ----------------------------------------------------------------------------------------------------


def damaged(run: Path, name: str) -> None:
    file = run / name / "unet.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def test_a_damaged_checkpoint_is_skipped_for_the_one_before(photos: Path, tmp_path: Path) -> None:
    whole, broken, log = tmp_path / "whole", tmp_path / "broken", tmp_path / "broken.log"
    train(photos, whole)
    train(photos, broken, max_train_steps=9, lr_decay_steps=7)  # its rate doesn't matter: the run goes on from 6
    damaged(broken, "checkpoint-9")
    train(photos, broken, resume_from_checkpoint="latest")
    assert "skipped" in log.read_text()
    assert "checkpoint-9: unet.safetensors has" in log.read_text()
    assert [json.loads(line)["step"] for line in (broken / "metrics.jsonl").read_text().splitlines()] == [
        json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()
    ]

    damaged(broken, "checkpoint-12")
    started = start(
        TOY
        | {"train_data_dir": str(photos), "output_dir": str(broken)}
        | {"resume_from_checkpoint": str(broken / "checkpoint-12")},
        1,
        log,
    )
    started[0].join(120 * PATIENCE)
    assert started[0].exitcode == 1
    assert "checkpoint-12' is damaged: unet.safetensors has" in log.read_text()


def test_a_stream_and_bad_files_resume_alike(photos: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"image": {"bytes": path.read_bytes(), "path": None}} for path in photos.iterdir()]
    rows[0]["image"]["bytes"] = b"no picture"  # one that would be held out
    rows[5]["image"]["bytes"] = rows[5]["image"]["bytes"][:50]
    features = datasets.Features({"image": datasets.Image()})
    (tmp_path / "parquet").mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "parquet" / "train.parquet"))
    values = {"train_data_dir": None, "dataset_name": str(tmp_path / "parquet"), "streaming": True}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(photos, whole, max_train_steps=6, **values)
    train(photos, broken, max_train_steps=6, **values)
    shutil.rmtree(broken / "checkpoint-6")
    train(photos, broken, max_train_steps=6, resume_from_checkpoint="latest", **values)
    assert_equal(final(whole), final(broken))
    log = whole.with_name("whole.log").read_text()
    assert "skipped stream[0]: cannot read '<10 bytes>': not a picture" in log
    assert "its first 2 pictures are held out" in (whole / "README.md").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, "holds checkpoints of an earlier run; go on with it by --resume_from_checkpoint latest"),
        (
            {"resume_from_checkpoint": "latest", "block_out_channels": (16, 16)},
            "block_out_channels: [16, 32], got",
        ),
        (
            {"resume_from_checkpoint": "latest", "prediction_type": "epsilon"},
            "prediction_type: 'v_prediction', got",
        ),
        ({"resume_from_checkpoint": "latest", "seed": 1}, "the checkpoint was trained with seed: 0, got 1"),
        ({"resume_from_checkpoint": "latest", "use_ema": False}, "the checkpoint was trained with use_ema: True"),
        ({"resume_from_checkpoint": "latest", "gradient_accumulation_steps": 3}, "micro-batches of a step: 2, got 3"),
        ({"resume_from_checkpoint": "latest", "validation_images": 3}, "with validation_images: 2, got 3"),
        ({"resume_from_checkpoint": "latest", "max_train_steps": 5}, "max_train_steps must be above 6"),
        ({"resume_from_checkpoint": "checkpoint-4"}, "no checkpoint 'checkpoint-4'; in"),
        ({"mixed_precision": "fp16", "resume_from_checkpoint": "latest"}, "mixed_precision=fp16 needs a GPU"),
        ({"output_dir": __file__}, "output_dir '" + __file__ + "' can't be written"),
        ({"logger": "notepad", "resume_from_checkpoint": "latest"}, "logger='notepad'"),
        ({"logger": "wandb", "resume_from_checkpoint": "latest"}, "pip install wandb"),
        ({"learning_rate": 1e30, "max_train_steps": 12, "resume_from_checkpoint": "latest"}, "a lower learning_rate"),
    ],
)
def test_a_run_that_cannot_be_is_refused(trained: Path, photos: Path, more: dict[str, Any], message: str) -> None:
    before = {path: path.read_bytes() for path in sorted(trained.rglob("checkpoint-*/*"))}
    log = trained.with_name("refused.log")
    log.unlink(missing_ok=True)
    values = TOY | {"max_train_steps": 6, "train_data_dir": str(photos), "output_dir": str(trained)} | more
    (process,) = start(values, 1, log)
    process.join(120 * PATIENCE)
    assert process.exitcode == 1
    assert message in log.read_text()
    assert before == {path: path.read_bytes() for path in sorted(trained.rglob("checkpoint-*/*"))}


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "run"
    train(photos, output, max_train_steps=6)
    return output


def refused(photos: Path, output: Path, **more: Any) -> str:
    log = output.with_name("refused.log")
    log.unlink(missing_ok=True)
    (process,) = start(TOY | {"train_data_dir": str(photos), "output_dir": str(output)} | more, 1, log)
    process.join(120 * PATIENCE)
    assert process.exitcode == 1
    return log.read_text()


def test_a_run_with_other_held_out_pictures_is_refused(trained: Path, photos: Path, tmp_path: Path) -> None:
    fewer, measured, others = tmp_path / "fewer", tmp_path / "measured", tmp_path / "others"
    shutil.copytree(photos, fewer)
    (fewer / "8.png").unlink()
    message = refused(fewer, trained, max_train_steps=7, resume_from_checkpoint="latest")
    assert "the checkpoint was trained with pictures: 7, got 6" in message
    shutil.copytree(fewer, measured)
    shutil.copytree(fewer, others)
    output = tmp_path / "run"
    train(photos, output, max_train_steps=1, validation_data_dir=str(measured))
    values = {"max_train_steps": 2, "resume_from_checkpoint": "latest"}
    message = refused(photos, output, validation_data_dir=str(others), **values)
    assert f"the checkpoint was trained with validation_data_dir: {str(measured)!r}, got {str(others)!r}" in message
    (tmp_path / "link").symlink_to(measured)  # another name of the same folder
    train(photos, output, validation_data_dir=f"{tmp_path / 'link'}/", **values)


def test_a_model_that_is_gone_is_written_again(trained: Path, photos: Path, tmp_path: Path) -> None:
    output, kept = tmp_path / "run", tmp_path / "kept"
    shutil.copytree(trained / "checkpoint-6", output / "checkpoint-6")  # all that came from another machine
    shutil.copytree(output, kept)
    train(photos, output, max_train_steps=6, resume_from_checkpoint="latest")
    weights = (output / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert weights == (trained / "unet" / "diffusion_pytorch_model.safetensors").read_bytes()

    tensors, numbers = load_checkpoint(kept / "checkpoint-6")
    shutil.rmtree(kept / "checkpoint-6")
    save_checkpoint(kept / "checkpoint-6", tensors, numbers | {"best": 1e9}, limit=2)  # nothing will be better
    train(photos, kept, max_train_steps=7, resume_from_checkpoint="latest")
    assert (kept / "model_index.json").exists()


def test_a_run_with_renamed_held_out_pictures_is_refused(trained: Path, photos: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    first = min(moved.iterdir())
    first.rename(moved / f"zzz{first.suffix}")
    message = refused(moved, trained, max_train_steps=7, resume_from_checkpoint="latest")
    assert "the checkpoint was trained with names of the held-out pictures: " in message


def test_what_is_not_of_this_run_is_left_alone(trained: Path, photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine"
    output.mkdir()
    (output / "README.md").write_text("mine")
    assert "holds a README.md that isn't of this run" in refused(photos, output)
    assert (output / "README.md").read_text() == "mine"

    for name in ("pipeline.py", "metrics.jsonl", "samples/00000002.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
        first = name.split("/")[0]
        message = refused(photos, tmp_path)
        assert f"holds a {first} that isn't of this run" in message
        assert message.rstrip().endswith("--resume_from_checkpoint latest") == (name == "metrics.jsonl")
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).rename(tmp_path / "kept")
    finished = tmp_path / "finished"
    shutil.copytree(trained, finished, ignore=shutil.ignore_patterns("checkpoint-*"))
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    for asked in (None, "latest"):  # its checkpoints are gone
        message = refused(photos, finished, resume_from_checkpoint=asked)
        assert "holds a model_index.json that isn't of this run" in message
        assert message.rstrip().endswith("take another folder")
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    foreign = tmp_path / "foreign" / "checkpoint-500"
    foreign.mkdir(parents=True)
    (foreign / "unet.bin").write_text("precious")
    assert "none of the 1 checkpoints" in refused(photos, foreign.parent, resume_from_checkpoint="latest")
    assert (foreign / "unet.bin").read_text() == "precious"

    used = tmp_path / "used"
    used.mkdir()
    with FileLock(used / ".lock"):
        assert "is in use by another run" in refused(photos, used)


def test_a_run_from_a_checkpoint_exports_its_own_best(trained: Path, photos: Path, tmp_path: Path) -> None:
    branch = tmp_path / "branch"
    train(photos, branch, max_train_steps=6, learning_rate=1e-5, resume_from_checkpoint=str(trained / "checkpoint-3"))
    assert "learning_rate: 1.0e-05" in (branch / "README.md").read_text()
    assert (branch / "metrics.jsonl").read_text().startswith('{"step": 4,')
    mode = (branch / "unet" / "diffusion_pytorch_model.safetensors").stat().st_mode
    assert mode == (branch / "README.md").stat().st_mode


# --- the step -------------------------------------------------------------------------------------------------------


class Adversarial(Objective):
    """A toy of two networks and two optimisers: the judge steps first, the painter then hears the new judge."""

    phases: ClassVar = {"judge": ("judge",), "painter": ("painter",)}
    criterion = "figure"
    averaged = ("painter",)

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        return batch[0] + torch.randn(batch[0].shape, generator=generator)

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Tensor) -> dict[str, Tensor]:
        painted = networks["painter"](networks["lens"](corrupted))
        if phase == "judge":
            return {"loss/judge": networks["judge"](painted.detach()).mean()}
        return {"loss/fool": -networks["judge"](painted).mean(), "loss/size": 0.1 * painted.square().mean()}

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        return {"figure": -networks["painter"](picture[0]).square().mean()}

    def show(
        self, networks: Mapping[str, nn.Module], pictures: Sequence[tuple[Tensor, ...]], indices: Sequence[int]
    ) -> Tensor:
        return torch.cat([networks["painter"](pictures[i][0]) for i in indices]).clamp(-1, 1)


def toy_networks() -> dict[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        judge = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.2), nn.Conv2d(4, 1, 3))
        judge[0].bias.requires_grad_(False)
        return {"judge": judge, "painter": nn.Conv2d(3, 3, 3, padding=1), "lens": nn.Conv2d(3, 3, 1)}


TOY_OPTIMIZERS = {"judge": OptimizerConfig(learning_rate=0.01), "painter": OptimizerConfig(learning_rate=0.03)}


def run_adversarial(photos: Path, output: Path, log: str, half_write: int) -> None:
    begin_process(log, half_write)
    data = open_data(DataConfig(train_data_dir=str(photos), resolution=8, validation_images=2), 0)
    config = LoopConfig(
        output_dir=str(output),
        max_train_steps=6,
        train_batch_size=2,
        checkpointing_steps=2,
        logging_steps=1,
        logger="none",
        resume_from_checkpoint="latest",
    )
    exported = []
    train_networks(
        Adversarial(),
        toy_networks(),
        data,
        TOY_OPTIMIZERS,
        config,
        export=lambda networks, progress: exported.append(progress.step),
    )
    print(f"exported {exported}")


def test_two_networks_train_and_resume_in_the_loop(photos: Path, tmp_path: Path) -> None:
    for name, kills in (("whole", (0,)), ("broken", (5, 0))):  # five files to a checkpoint: in the first one
        for half_write in kills:
            log = tmp_path / f"{name}.log"
            process = FORKSERVER.Process(target=run_adversarial, args=(photos, tmp_path / name, str(log), half_write))
            process.start()
            process.join(120 * PATIENCE)
            assert process.exitcode == (-signal.SIGKILL if half_write else 0), log.read_text()
    (whole, state), (broken, other) = (
        load_checkpoint(tmp_path / name / "checkpoint-6") for name in ("whole", "broken")
    )
    # No average of the judge, and nothing of the lens, which no phase steps.
    assert whole.keys() == {"judge", "optimizer.judge", "optimizer.painter", "painter", "painter.average"}
    assert state == other
    for file, tensors in whole.items():
        assert all(torch.equal(value, broken[file][key]) for key, value in tensors.items()), file
    before = toy_networks()
    assert not torch.equal(whole["painter"]["weight"], before["painter"].weight)
    assert not torch.equal(whole["painter"]["weight"], whole["painter.average"]["weight"])
    assert torch.equal(whole["judge"]["0.bias"], before["judge"][0].bias)
    assert "exported [2" in (tmp_path / "whole.log").read_text()
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert (lines[-2]["learning_rate/judge"] * 3) == pytest.approx(lines[-2]["learning_rate/painter"])


def test_a_step_of_two_networks_with_an_optimiser_each(monkeypatch: pytest.MonkeyPatch) -> None:
    objective, config = Adversarial(), LoopConfig(max_grad_norm=0.05, gradient_accumulation_steps=3, logger="none")
    rng = torch.Generator().manual_seed(0)
    micro_batches = [objective.corrupt((torch.zeros(2, 3, 8, 8),), rng) for _ in range(3)]
    accelerator = make_accelerator(config)
    networks = toy_networks()
    networks["judge"][1].p = 0.0
    optimizers = make_optimizers(objective, networks, TOY_OPTIMIZERS)
    quiet = []
    no_sync = accelerator.no_sync
    monkeypatch.setattr(accelerator, "no_sync", lambda network: quiet.append(network) or no_sync(network))
    gradients = [one.requires_grad for network in networks.values() for one in network.parameters()]
    with torch.random.fork_rng(devices=[]):
        losses, norms = optimizer_step(accelerator, objective, networks, optimizers, micro_batches, config, 0)
    assert gradients == [one.requires_grad for network in networks.values() for one in network.parameters()]
    # Gradients are exchanged with the last of three micro-batches only.
    assert quiet == [networks["judge"]] * 2 + [networks["painter"]] * 2

    expected = toy_networks()
    expected["judge"][1].p = 0.0
    batch = expected["lens"](torch.cat(micro_batches)).detach()
    judge = torch.optim.AdamW([one for one in expected["judge"].parameters() if one.requires_grad], lr=0.01)
    loss = expected["judge"](expected["painter"](batch).detach()).mean()
    loss.backward()
    norm = nn.utils.clip_grad_norm_(expected["judge"].parameters(), 0.05)
    assert norm > 0.05
    assert losses["loss/judge"].item() == pytest.approx(loss.item(), abs=1e-6)
    assert norms["grad_norm/judge"].item() == pytest.approx(norm.item(), rel=1e-5)
    judge.step()
    painter = torch.optim.AdamW(expected["painter"].parameters(), lr=0.03)
    painted = expected["painter"](batch)
    (0.1 * painted.square().mean() - expected["judge"](painted).mean()).backward()
    nn.utils.clip_grad_norm_(expected["painter"].parameters(), 0.05)
    painter.step()
    for name, network in networks.items():
        for one, other in zip(network.parameters(), expected[name].parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-6)


# --- torch.compile --------------------------------------------------------------------------------------------------


class Linear(Objective):
    """|w x - 1|^2 with one parameter."""

    phases: ClassVar[dict[str, tuple[str, ...]]] = {"net": ("net",)}  # type: ignore[assignment]
    criterion = "figure"

    def corrupt(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        return batch[0]

    def losses(self, phase: str, networks: Mapping[str, nn.Module], corrupted: Tensor) -> dict[str, Tensor]:
        return {"loss": (networks["net"](corrupted) - 1).square().mean()}

    def evaluate(self, networks: Mapping[str, nn.Module], picture: tuple[Tensor, ...], index: int) -> dict[str, Tensor]:
        return {"figure": torch.zeros(())}

    def show(self, *_: object) -> Tensor:
        return torch.zeros(1, 1, 4, 4)


class Wrong(nn.Module):
    """The right values with gradients that are too large, as a compiler may give them."""

    def __init__(self, network: nn.Module, factor: float) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    def forward(self, x: Tensor) -> Tensor:
        y = self.network(x)
        return y.detach() + self.factor * (y - y.detach())


@pytest.mark.parametrize(("factor", "refused"), [(1.0, False), (1.05, False), (1.2, True), (0.0, True)])
def test_wrong_gradients_of_a_compiled_network_are_noticed(factor: float, refused: bool) -> None:
    accelerator = make_accelerator(LoopConfig(logger="none"))
    network = nn.Conv2d(1, 1, 3)
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with pytest.raises(FloatingPointError, match="torch.compile gives wrong gradients") if refused else nullcontext():
        check_compiled(accelerator, Linear(), {"net": Wrong(network, factor)}, {"net": network}, x)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
