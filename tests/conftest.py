"""Small networks, repositories in the Hub's layouts, and where the shared material of the project is."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from warm import Python

from diffusers_restore import (
    FaceEnhancer,
    OldPhotoMapping,
    OldPhotoPipeline,
    OldPhotoVAE,
    ResidualUNet2DModel,
    ResnetGenerator,
    ScratchDetector,
    UNetGenerator,
)

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 1)))  # the tests run in a process for each core


def pytest_collection_finish() -> None:
    """Leave what was imported out of later collections, each of which would look through all of it."""
    gc.collect()
    gc.freeze()


SHARED = Path(__file__).parents[2] / "shared"


# Tests of whole programs: several processes, a Hub, a browser, runs that are killed, all commands of a page. They take
# half of the time of all tests. The longest come first.
PROGRAMS = (
    "test_what_happens_on_a_hub",
    "test_every_way_of_loading",
    "test_what_others_import_imports_alone",
    "test_two_processes_restore_each_picture_once",
    "test_a_painted_mask_is_filled_in_the_browser",
    "test_the_command_line_prints_what_its_page_says",
    "test_a_notebook_runs_in_a_kernel",
    "test_the_site_is_complete_and_loads_nothing_from_elsewhere",
    "test_the_example_trains_on_two_processes_and_another_process_restores",
    "test_the_example_trains_on_two_processes",
    "test_a_run_that_was_killed_ends_bit_for_bit_as_an_unbroken_one",
    "test_a_run_that_is_stopped_goes_on_where_it_was",
    "test_a_run_of_two_networks_that_was_killed_ends_as_an_unbroken_one",
    "test_a_damaged_checkpoint_is_skipped_for_the_one_before",
    "test_two_processes_train_as_one_does_with_accumulation",
    "test_fewer_processes_than_were_asked_for_are_an_error",
    "test_a_photograph_is_restored_in_the_browser",
    "test_two_visitors_at_once",
    "test_work_is_cancelled_in_the_browser",
    "test_a_wrong_file_is_refused_in_the_browser",
    "test_shell_blocks_run",
    "test_python_blocks_run",
    "test_pages_run_from_top_to_bottom",
    "test_diffusers_finds_our_names",
    "test_blocks_travel_over_the_hub",
    "test_repositories_on_the_hub",
    "test_what_we_save_another_process_loads_with_the_same_pictures",
    "test_visitors_from_elsewhere_cannot_choose_the_model",
    "test_a_second_signal_stops_at_once",
    "test_a_selection_of_two_processes_and_one_that_was_killed",
    "test_the_commands_of_its_page",
    "test_a_broken_plug_in_hurts_only_who_asks_for_it",
    "test_the_sdist_can_be_built_and_tested",
    "test_the_metadata",
    "test_nothing_of_the_extras_is_needed",
    "test_the_wheel_holds_the_package_and_nothing_else",
    "test_the_wheel_restores_offline_what_the_source_tree_restores",
    "test_the_benchmark",
    "test_a_row_by_a_process_of_its_own",
    "test_prior_trains_networks_for_equal_time",
    "test_overhead",
    "test_training_overhead",
)
FIRST = PROGRAMS[:9]  # last, one worker would wait for them


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests of whole programs, too, as `make test-all` does")


def pytest_configure() -> None:
    """Let SIGINT stop runs again, which a shell has ignored by what it runs in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out whole programs, unless `--all` or files are given; begin with the longest tests.

    Half of the longest begin each half of the list, which is what two workers begin with.
    """
    name = {item: item.name.partition("[")[0] for item in items}
    if not config.option.all and config.args_source is not pytest.Config.ArgsSource.ARGS:
        config.hook.pytest_deselected(items=[item for item in items if name[item] in PROGRAMS])
        items[:] = [item for item in items if name[item] not in PROGRAMS]
    first = sorted((item for item in items if name[item] in FIRST), key=lambda item: FIRST.index(name[item]))
    others = [item for item in items if name[item] not in FIRST]
    half = len(others) // 2
    items[:] = [*first[::2], *others[:half], *first[1::2], *others[half:]]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Golden arrays and test pictures, which are not part of the project."""
    if not (SHARED / "golden").is_dir():
        pytest.skip("the shared folder with golden arrays and pictures is not beside the project")
    return SHARED


def free_port() -> int:
    """A port at which nothing listens on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def make_unet(*, channels: int = 3, out_channels: int | None = None, levels: int = 2, **config: Any) -> UNet2DModel:
    """A small network with random weights, the same ones at every call, that leaves the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return UNet2DModel(
            sample_size=16,
            in_channels=channels,
            out_channels=out_channels or channels,
            block_out_channels=(8, 16, 16, 16)[:levels],
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * levels,
            up_block_types=("UpBlock2D",) * levels,
            norm_num_groups=4,
            add_attention=False,
            **config,
        ).eval()


def make_residual_unet(
    *, channels: int = 3, out_channels: int | None = None, levels: int = 2, **config: Any
) -> ResidualUNet2DModel:
    """The same of the other kind, all of whose weights are random: a new one says zero."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        unet = ResidualUNet2DModel(
            sample_size=16,
            in_channels=channels,
            out_channels=out_channels or channels,
            block_out_channels=(8, 16, 16, 16)[:levels],
            **{"layers_per_block": 1, "time_embed_dim": 16, **config},
        ).eval()
        for parameter in unet.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    return unet


def make_generator(kind: type[Any] = UNetGenerator, **config: Any) -> UNetGenerator | ResnetGenerator:
    """A small generator of Pix2pix with random weights, the same ones at every call, whose pictures aren't flat."""
    widths = (8, 16, 16, 16) if kind is UNetGenerator else (8, 12)
    small = {} if kind is UNetGenerator else {"num_blocks": 2}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        generator = kind(**{"sample_size": 16, "block_out_channels": widths, **small, **config}).eval()
        for parameter in generator.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return generator


def make_old_photo_network(kind: type[Any], seed: int = 0, **config: Any) -> Any:
    """A small network of old photographs, with what its norms have learned, if anything."""
    small = {
        OldPhotoVAE: {"block_out_channels": (4, 6, 8), "num_blocks": 1},
        OldPhotoMapping: {"latent_channels": 8, "block_out_channels": (12, 16), "num_blocks": 2},
        ScratchDetector: {"block_out_channels": (4, 6, 8)},
        FaceEnhancer: {"sample_size": 16, "block_out_channels": (4, 6, 8), "hidden_channels": 4},
    }[kind]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        config = {**small, **({"num_blocks": 6} if config.get("attention") == "patch" else {}), **config}
        network = kind(**config).eval()
        for parameter in network.parameters():
            parameter.data += (0.1 if kind is ScratchDetector else 0.03) * torch.randn_like(parameter)
        for name, buffer in network.named_buffers():
            if buffer.is_floating_point():
                buffer.copy_((0.2 if "var" in name else -0.1) + 0.2 * torch.rand(buffer.shape))
        if kind is ScratchDetector:
            network.conv_out.weight.data *= 10  # else it says the same of all pixels
            network.conv_out.bias.data += 4
    return network


def make_old_photo_pipeline(
    attention: str = "none", detects: bool = False, enhances: bool = False, **options: Any
) -> OldPhotoPipeline:
    """A small restorer of old photographs, by two different autoencoders."""
    return OldPhotoPipeline(
        make_old_photo_network(OldPhotoVAE),
        make_old_photo_network(OldPhotoMapping, attention=attention),
        make_old_photo_network(OldPhotoVAE, seed=1),
        make_old_photo_network(ScratchDetector) if detects else None,
        make_old_photo_network(FaceEnhancer) if enhances else None,
        **options,
    )


@pytest.fixture(scope="session")
def unet() -> UNet2DModel:
    return make_unet()


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Hugging Face Hub on loopback: the environment variables with which a new process talks to it."""
    root = tmp_path_factory.mktemp("hub")
    command = [sys.executable, str(Path(__file__).with_name("loopback_hub.py")), "--root", str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        name, _, address = server.stdout.readline().strip().partition("=")
        yield {name: address, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(root / "home")}
        server.terminate()


@pytest.fixture(scope="session")
def python() -> Iterator[Python]:
    """Runs Python as a process of its own, without a cold start."""
    with Python() as warm:
        yield warm


@pytest.fixture(scope="session")
def hub_python(hub: dict[str, str]) -> Iterator[Python]:
    """The same, talking to the Hub on loopback."""
    with Python({"HF_HUB_DISABLE_PROGRESS_BARS": "1", **hub}) as warm:
        yield warm


WriteRepo = Callable[..., Path]


@pytest.fixture
def plug_in() -> Callable[[str], str]:
    """The folder of a plug-in file, as `custom_pipeline`; diffusers runs all of them in one module."""
    return lambda method: str(Path(__file__).parents[1] / "pipelines" / method)


@pytest.fixture
def write_repo(tmp_path: Path) -> WriteRepo:
    """Write a stock repository folder as it lies on the Hub, in sub-folders or with every file at the root."""

    def write(
        unet: UNet2DModel | ResidualUNet2DModel,
        scheduler: Any = None,
        *,
        pipeline: str = "DDPMPipeline",
        at_root: bool = False,
        name: str = "repo",
    ) -> Path:
        scheduler = scheduler or DDPMScheduler()
        folder = tmp_path / name
        unet.save_pretrained(folder if at_root else folder / "unet")
        scheduler.save_pretrained(folder if at_root else folder / "scheduler")
        index = {
            "_class_name": pipeline,
            "_diffusers_version": "0.1.1",
            "scheduler": ["diffusers", type(scheduler).__name__],
            "unet": [type(unet).__module__.partition(".")[0], type(unet).__name__],
        }
        (folder / "model_index.json").write_text(json.dumps(index))
        return folder

    return write
