"""`restore --scratches auto`: what is found is filled in by the prior, and the restorer does the rest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from conftest import make_old_photo_network
from PIL import Image
from torch import Tensor

import diffusers_restore
from diffusers_restore import (
    DEFAULT_OLD_PHOTO_RESTORER,
    DEFAULT_PRIOR,
    DEFAULT_RESTORER,
    DDRMPipeline,
    RDDMPipeline,
    ScratchDetectionPipeline,
    ScratchDetector,
    images,
    operators,
    restoring,
)
from diffusers_restore.cli import main
from diffusers_restore.pipelines.pipeline_scratch_detection import find_scratches
from diffusers_restore.registries import METHODS
from diffusers_restore.restoring import ArgumentError, scratched
from diffusers_restore.restoring.zero_shot import rounding_noise

PHOTO = Path(diffusers_restore.__file__).parent / "assets" / "photos" / "chelsea.png"


def photo(size: int = 48) -> Tensor:
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    return (images.load(PHOTO).tensor[:, :, 40 : 40 + size, 60 : 60 + size] + 0.1 * noise).clamp(-1, 1)


def mask(size: int = 48, *, wide: bool = False) -> Tensor:
    found = torch.zeros(1, 1, size, size)
    found[..., 20, 5:40] = 1
    if wide:
        found[..., 8:40, 8:40] = 1
    return found


@pytest.fixture
def restorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = tmp_path / "detector"
    ScratchDetectionPipeline(make_old_photo_network(ScratchDetector), 32, 0.3).save_pretrained(folder)
    monkeypatch.setattr(scratched, "DEFAULT_DETECTOR", str(folder))
    made = restoring.load(scratches="auto", seed=3, device="cpu", dtype="float32")
    made.quiet = True
    return made


def finds(monkeypatch: pytest.MonkeyPatch, found: Tensor) -> None:
    monkeypatch.setattr(scratched, "find_scratches", lambda *_: found)


def restore(made: Any, folder: Path, x: Tensor) -> tuple[Tensor, Any]:
    images.save(x, folder / "old.png")
    (outcome,) = made.restore_files(folder / "old.png", folder / "new.png")
    assert outcome.error is None
    return images.load(folder / "new.png").tensor, outcome.remarks


def filled(x: Tensor, damaged: Tensor, method: str, **options: Any) -> Tensor:
    pipe = DDRMPipeline.from_pretrained(DEFAULT_PRIOR)
    pipe.scheduler = METHODS[method].from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    arguments = {"generator": torch.Generator().manual_seed(3), "output_type": "latent", **options}
    operator = operators.create("inpaint", measurement_shape=x.shape[1:], mask=1 - damaged[0, 0])
    made = pipe(x, operator=operator, sigma_y=rounding_noise(8), **arguments).images
    return torch.where(damaged.bool(), made, x)


def blind(x: Tensor, model: str = DEFAULT_RESTORER) -> Tensor:
    pipe = RDDMPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    return pipe(x, num_inference_steps=1, output_type="latent").images


@pytest.mark.parametrize(("wide", "method", "options"), [(False, "dpir", {}), (True, "ddrm", {"eta": 1.0})])
def test_what_is_found_is_grown_filled_in_and_restored(
    wide: bool, method: str, options: dict[str, Any], restorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, found = photo(), mask(wide=wide)
    if wide:
        monkeypatch.setattr(scratched, "_WIDE", 0.4)
    finds(monkeypatch, found)
    made, remarks = restore(restorer, tmp_path, x)
    x = images.load(tmp_path / "old.png").tensor
    grown = torch.zeros_like(found)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            grown = torch.maximum(grown, found.roll((down, right), (2, 3)))
    look = ("look at what: scratches find makes a mask of it",) * wide  # half of the picture
    assert remarks.notes == (f"{float(grown.mean()):.1%} taken for scratches", *look)
    assert len(remarks.warnings) == wide
    whole = filled(x, grown, method, **options)
    assert (whole != x).any(dim=1).float().mean() == pytest.approx(float(grown.mean()), rel=0.01)
    assert (made - blind(whole)).abs().max() < 2.02 / 255


def test_where_nothing_is_found_the_restorer_alone_works(
    restorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, torch.zeros(1, 1, 48, 48))
    made, remarks = restore(restorer, tmp_path, photo())
    assert remarks.notes == ("no scratches found",)
    assert (made - blind(images.load(tmp_path / "old.png").tensor)).abs().max() < 2.02 / 255


def test_the_faded_get_the_restorer_of_old_photographs(
    restorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, or after what was found or what is masked was filled in; also where it changes hardly anything."""
    options: dict[str, Any] = {"faded": True, "seed": 3, "device": "cpu", "dtype": "float32"}
    finds(monkeypatch, mask())
    alone = restoring.load(**options)
    assert [type(pipe) for pipe in alone.pipes] == [RDDMPipeline]
    made, remarks = restore(alone, tmp_path, photo())
    x = images.load(tmp_path / "old.png").tensor
    assert remarks.notes == ()
    assert (made - blind(x, DEFAULT_OLD_PHOTO_RESTORER)).abs().max() < 2.02 / 255
    whole = filled(x, damaged := scratched.grown(mask(), 1), "dpir")
    expected = blind(whole, DEFAULT_OLD_PHOTO_RESTORER)
    assert (expected - blind(whole)).abs().max() > 0.1
    images.save(1 - 2 * damaged, tmp_path / "mask.png")
    for more in ({"scratches": "auto"}, {"mask": tmp_path / "mask.png"}):
        made, remarks = restore(restoring.load(**options, **more), tmp_path, photo())
        assert remarks.notes[0].startswith("4.8% ")
        assert (made - expected).abs().max() < 2.02 / 255


@pytest.mark.parametrize("strength", [0.0, 0.5])
def test_half_of_the_change_leaves_no_scratch_half_filled_in(
    strength: float, restorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finds(monkeypatch, mask())
    made, _ = restore(restoring.load(scratches="auto", seed=3, strength=strength, dtype="float32"), tmp_path, photo())
    x = images.load(tmp_path / "old.png").tensor
    whole = filled(x, scratched.grown(mask(), 1), "dpir")
    assert (made - torch.lerp(whole, blind(whole), strength)).abs().max() < 2.02 / 255
    assert (whole - x).abs().max() > 0.1


def test_what_is_switched_off_is_not_asked_for() -> None:
    assert restoring.load(faded=False, device="cpu").settings["model"] == "bundled restorer"
    made = restoring.load(scratches="auto", faded=False, device="cpu")
    assert made.settings["model"] == "bundled restorer"
    assert restoring.load(task="denoise", faded=False, device="cpu").settings["model"] == "bundled prior"


def test_what_is_too_wide_for_a_scratch_is_left(restorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = mask()
    found[..., 30:40, 0:9] = 1  # at the border, too
    finds(monkeypatch, found)
    made, remarks = restore(restorer, tmp_path, photo())
    assert remarks.notes[0] == f"{float(scratched.grown(mask(), 1).mean()):.1%} taken for scratches"
    assert remarks.notes[1].startswith("3.9% looks damaged but is wider than a scratch")
    x = images.load(tmp_path / "old.png").tensor
    assert (made - blind(filled(x, scratched.grown(mask(), 1), "dpir"))).abs().max() < 2.02 / 255


def test_opening_by_its_definition() -> None:
    given = (torch.rand(2, 1, 9, 11, generator=torch.Generator().manual_seed(0)) < 0.9).float()
    expected = torch.zeros_like(given)
    for i in range(9 - 2):
        for j in range(11 - 2):
            square = (..., slice(i, i + 3), slice(j, j + 3))
            whole = given[square].amin(dim=(2, 3), keepdim=True)
            expected[square] = torch.maximum(expected[square], whole.expand(-1, -1, 3, 3))
    assert 0 < expected.mean() < given.mean()
    assert torch.equal(scratched.opened(given, 1), expected)


def test_the_detector_is_asked_at_its_size_and_by_its_threshold(
    restorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(
        scratched, "find_scratches", lambda *given: asked.append(given) or torch.full((1, 1, 48, 48), 0.29)
    )
    _, remarks = restore(restorer, tmp_path, photo())
    ((_, detector, pictures, size),) = asked
    assert size == 32
    assert find_scratches("detector", detector, pictures, size).shape == (1, 1, 48, 48)
    assert remarks.notes == ("no scratches found",)
    monkeypatch.setattr(scratched, "find_scratches", lambda *_: torch.full((1, 1, 48, 48), 0.31))
    _, remarks = restore(restorer, tmp_path, photo())
    assert remarks.notes == ("no scratches found", remarks.notes[1])
    assert remarks.notes[1].startswith("100.0% looks damaged but is wider than a scratch")
    monkeypatch.setattr(scratched, "_WIDE", 1)
    _, remarks = restore(restorer, tmp_path, photo())
    assert remarks.warnings == ("100.0% taken for scratches, which can't be right: nothing was filled in",)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mask_of_what_is_found_fills_in_the_same(
    channels: int, restorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = photo()[:, :channels].contiguous()
    finds(monkeypatch, mask())
    expected, found = restore(restorer, tmp_path, x)
    finder = restoring.load(scratches="find", device="cpu", dtype="float32")
    assert not hasattr(finder, "prior")
    (outcome,) = finder.restore_files(tmp_path / "old.png", tmp_path / "mask.png")
    assert outcome.error is None
    assert outcome.remarks == found
    written = images.load(tmp_path / "mask.png").tensor
    assert torch.equal(written, (1 - 2 * scratched.grown(mask(), 1)).expand_as(written))
    monkeypatch.setattr(scratched, "find_scratches", None)  # nobody looks where a mask says it
    by_hand = restoring.load(scratches="auto", mask=tmp_path / "mask.png", seed=3, device="cpu", dtype="float32")
    made, remarks = restore(by_hand, tmp_path, x)
    assert remarks.notes == ("4.8% missing (black in the mask)",)
    assert torch.equal(made, expected)


def test_a_mask_that_is_made_is_opaque_black_and_white(
    restorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the picture is: transparent, or of 16 bits; and it isn't compared with a photograph."""
    finds(monkeypatch, mask())
    finder = restoring.load(scratches="find", device="cpu", dtype="float32")
    finder.quiet = True
    images.save(photo(), tmp_path / "clear.png", alpha=torch.rand(1, 1, 48, 48))
    images.save(photo().mean(dim=1, keepdim=True), tmp_path / "deep.png", bits=16)
    for name in ("clear", "deep"):
        (outcome,) = finder.restore_files(tmp_path / f"{name}.png", tmp_path / f"{name}_mask.png")
        assert outcome.error is None
        with Image.open(tmp_path / f"{name}_mask.png") as made:
            assert made.mode == "L"
        assert torch.equal(images.load_mask(tmp_path / f"{name}_mask.png"), 1 - scratched.grown(mask(), 1)[0, 0])
    with pytest.raises(ArgumentError, match="reference has no meaning where masks are made"):
        finder.restore_files(tmp_path / "clear.png", tmp_path / "out.png", reference=tmp_path / "deep.png")


@pytest.mark.parametrize(("share", "kept"), [(0.5, True), (0.95, False)])
def test_a_mask_of_much_says_nothing_of_filling_in(
    share: float, kept: bool, restorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scratched, "_WIDE", 1)
    found = torch.zeros(1, 1, 48, 48)
    found[..., : round(48 * share), :] = 1
    finds(monkeypatch, found)
    finder = restoring.load(scratches="find", device="cpu", dtype="float32")
    made, remarks = restore(finder, tmp_path, photo())
    assert bool((made == -1).any()) == kept
    assert len(remarks.warnings) == (not kept)
    assert "filled" not in " ".join((*remarks.notes, *remarks.warnings))
    _, remarks = restore(restorer, tmp_path, photo())
    assert len(remarks.warnings) == 1
    assert "filled in" in remarks.warnings[0]


def test_a_mask_of_another_size(restorer: Any, tmp_path: Path) -> None:
    images.save(photo(), tmp_path / "old.png")
    images.save(1 - 2 * mask(40), tmp_path / "mask.png")
    by_hand = restoring.load(scratches="auto", mask=tmp_path / "mask.png", device="cpu", dtype="float32")
    (outcome,) = by_hand.restore_files(tmp_path / "old.png", tmp_path / "new.png")
    assert str(outcome.error) == "mask has 40x40 pixels, the picture has 48x48; they must be the same"


def test_grey_stays_grey(restorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finds(monkeypatch, mask())
    made, _ = restore(restorer, tmp_path, photo().mean(dim=1, keepdim=True))
    assert made.shape == (1, 1, 48, 48)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "sr4"}, "scratches and task exclude each other: a task says exactly what was done to the picture"),
        ({"model": DEFAULT_PRIOR}, "scratches is for the bundled restorers; this model is an unconditional DDPM"),
        ({"steps": 3}, "steps has no meaning with scratches"),
        ({"samples": 2}, "scratches leaves the choice of models and steps to the bundled restorers"),
    ],
)
def test_what_does_not_go_with_it(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        restoring.load(scratches="auto", **options)
    with pytest.raises(ArgumentError, match="scratches must be 'auto' or 'find', got 'all'"):
        restoring.load(scratches="all")
    with pytest.raises(ArgumentError, match="mask has no meaning where scratches is find, which makes a mask"):
        restoring.load(scratches="find", mask=PHOTO, mask_threshold=0.3)
    with pytest.raises(ArgumentError, match="faded has no meaning where scratches is find, which makes a mask"):
        restoring.load(scratches="find", faded=True)
    with pytest.raises(ArgumentError, match="steps has no meaning with faded: each network takes its own number"):
        restoring.load(faded=True, steps=2)
    with pytest.raises(ArgumentError, match="faded leaves the choice of models and steps to the bundled restorers"):
        restoring.load(faded=True, samples=2)
    with pytest.raises(ArgumentError, match="faded must be"):
        restoring.load(faded="yes")
    with pytest.raises(ArgumentError, match="strength has no meaning where scratches is find, which makes a mask"):
        restoring.load(scratches="find", strength=0.5)


def test_on_the_command_line(restorer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finds(monkeypatch, mask())
    images.save(photo(), tmp_path / "old.png")
    run: Callable[..., Result] = CliRunner().invoke
    words = ["restore", str(tmp_path / "old.png"), "-o", str(tmp_path / "new.png"), "--scratches", "auto"]
    result = run(main, words)
    assert result.exit_code == 0, result.output
    assert "4.8% taken for scratches" in result.output
    result = run(main, [*words, "--steps", "3"])
    assert result.exit_code == 2
    assert "--steps has no meaning with --scratches" in result.output
