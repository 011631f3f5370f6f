"""Training data: every sample is a function of (seed, n); every kind of source and of picture; damaged files."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from diffusers_restore.errors import ImageError, InvalidInputError
from diffusers_restore.training import data, sources
from diffusers_restore.training.config import DataConfig
from diffusers_restore.training.data import CropConfig, Samples, StreamedSamples, batches, cut, from_source

CROP = CropConfig(8, min_scale=0.5, max_scale=1.5, random_flip=True, random_rotate=True)
FLAT = CropConfig(4, channels=1)  # what remains of a picture of one colour is its colour
ONE = {"batch_size": 1, "accumulation": 1, "rank": 0, "world_size": 1}
MORE_WORKERS_THAN_CORES = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker")


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(array: NDArray[Any] | Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(buffer, file_format, **options)
    return buffer.getvalue()


def flat(value: int) -> bytes:
    return encoded(np.full((4, 4), value, np.uint8))


def fill(folder: Path, files: list[bytes]) -> Path:
    """Write 00.png, 01.png, ..."""
    folder.mkdir(parents=True)
    for i, content in enumerate(files):
        (folder / f"{i:02}.png").write_bytes(content)
    return folder


def stack(samples: Samples, count: int) -> torch.Tensor:
    return torch.stack([samples[n] for n in range(count)])


def take(samples: Samples | StreamedSamples, count: int, **options: int) -> torch.Tensor:
    """The first pictures of the samples in `count` micro-batches, (N, C, H, W)."""
    return torch.cat([one for (one,) in islice(batches(samples, **(ONE | options)), count)])


def colours(samples: Any) -> list[int]:
    return [int(sample.flatten()[0]) for sample in samples]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return fill(tmp_path / "photos" / "holiday", [encoded(noise(12 + i, 20 - i, 3, seed=i)) for i in range(5)]).parent


@pytest.fixture
def local_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0)  # 5 s after each epoch of a stream


def parquet(folder: Path, files: list[bytes], shards: int = 1) -> str:
    """A data set of an Image column and another one, in equal shards."""
    columns = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    items = {"image": [{"bytes": file, "path": None} for file in files], "label": list(range(len(files)))}
    dataset = datasets.Dataset.from_dict(items, features=columns)
    folder.mkdir()
    for i in range(shards):
        dataset.shard(shards, i).to_parquet(folder / f"train-{i}.parquet")
    return str(folder)


def stream(folder: str, crop: CropConfig = FLAT, **options: Any) -> StreamedSamples:
    return StreamedSamples(sources.open_stream(folder), "image", crop, **({"seed": 3} | options))


def streamed(
    folder: str, crop: CropConfig = FLAT, *, rank: int = 0, world_size: int = 1, first: int = 0, **options: Any
) -> Iterator[torch.Tensor]:
    return stream(folder, crop, **options).take(count(rank + first * world_size, world_size))


# --- samples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cache", "fewest", "most"), [(0, 32, 32), (1100, 20, 31), (2**30, 5, 5)])
def test_a_sample_is_a_function_of_seed_and_number(
    photos: Path, monkeypatch: pytest.MonkeyPatch, cache: int, fewest: int, most: int
) -> None:
    expected = stack(Samples(sources.open_source(photos), CROP, seed=1), 16)
    read, files = sources.read_picture, []
    monkeypatch.setattr(sources, "read_picture", lambda file: (files.append(file), read(file))[1])
    monkeypatch.setattr(data, "CACHE_BYTES", cache)
    samples = Samples(sources.open_source(photos), CROP, seed=1)
    backwards = torch.stack([samples[n] for n in reversed(range(16))]).flip(0)
    assert torch.equal(backwards, expected)
    assert torch.equal(stack(samples, 16), expected)
    assert fewest <= len(files) <= most
    assert expected.shape == (16, 1, 3, 8, 8)
    assert len({sample.numpy().tobytes() for sample in expected}) == 16
    assert not torch.equal(stack(Samples(sources.open_source(photos), CROP, seed=2), 16), expected)


@MORE_WORKERS_THAN_CORES
def test_workers_and_the_order_of_calls_change_nothing(photos: Path) -> None:
    samples = Samples(sources.open_source(photos), CROP, seed=1)
    before = torch.get_rng_state()
    assert torch.equal(take(samples, 4, batch_size=3, num_workers=2), stack(samples, 12)[:, 0])
    assert torch.equal(torch.get_rng_state(), before)


def test_two_ranks_see_what_accumulation_sees(photos: Path) -> None:
    samples = Samples(sources.open_source(photos), CROP, seed=1)
    ranks = [take(samples, 3, batch_size=2, rank=rank, world_size=2).unflatten(0, (3, 2)) for rank in (0, 1)]
    accumulated = take(samples, 6, batch_size=2, accumulation=2)
    assert torch.equal(torch.stack(ranks, dim=1).flatten(0, 2), accumulated)
    assert torch.equal(accumulated, stack(samples, 12)[:, 0])


def test_a_resumed_run_goes_on(photos: Path) -> None:
    samples = Samples(sources.open_source(photos), CROP, seed=1)
    options = {"batch_size": 2, "accumulation": 3, "rank": 1, "world_size": 2}
    assert torch.equal(take(samples, 6, first_step=2, **options), take(samples, 12, **options)[12:])


def test_an_epoch_is_a_permutation(tmp_path: Path) -> None:
    source = sources.ImageFolder(fill(tmp_path / "flat", [flat(i) for i in range(20)]))
    seen = colours(stack(Samples(source, FLAT, seed=0), 60))
    epochs = [seen[:20], seen[20:40], seen[40:]]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0] != list(range(20))


@MORE_WORKERS_THAN_CORES
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_file_is_reported_once_and_replaced(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], num_workers: int
) -> None:
    folder = fill(tmp_path / "flat", [flat(i) for i in range(6)])
    whole = colours(stack(Samples(sources.ImageFolder(folder), FLAT, seed=0), 18))
    assert whole[5] == 4  # the last one of an epoch, for which the first one steps in
    (folder / "04.png").write_bytes(flat(4)[:50])
    samples = Samples(sources.ImageFolder(folder), FLAT, seed=0)
    expected = []
    for n, colour in enumerate(whole):
        epoch = whole[n // 6 * 6 :][:6]
        expected.append(colour if colour != 4 else epoch[(epoch.index(4) + 1) % 6])
    assert colours(take(samples, 18, num_workers=num_workers)) == expected
    assert capfd.readouterr().err.count(f"skipped {folder}/04.png: cannot read") == 1


def test_a_damaged_file_is_an_error_if_strict(tmp_path: Path) -> None:
    folder = fill(tmp_path / "flat", [flat(1), b"no picture", flat(3)])
    samples = Samples(sources.ImageFolder(folder), FLAT, seed=0, strict=True)
    for _ in range(2):
        with pytest.raises(InvalidInputError, match=f"{folder}/01.png: cannot read .*: not a picture"):
            stack(samples, 3)


def test_nothing_but_damaged_files_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    samples = Samples(sources.ImageFolder(fill(tmp_path / "flat", [b"", b"no picture"])), FLAT, seed=0)
    with pytest.raises(InvalidInputError, match="none of the 2 pictures can be read"):
        samples[0]
    assert capsys.readouterr().err.count("skipped") == 2


def test_pixels_become_floats_in_the_range_of_networks() -> None:
    assert data.to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([-1, -0.6, 1])
    with pytest.raises(InvalidInputError, match="torch.uint8, got torch.float32"):
        data.to_unit(torch.zeros(1))


# --- crops -----------------------------------------------------------------------------------------------------------


def crops_of(array: NDArray[np.uint8], crop: CropConfig, count: int) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [cut((Image.fromarray(array),), crop, rng)[0] for _ in range(count)]


def crop_of(array: NDArray[np.uint8], crop: CropConfig) -> NDArray[np.uint8]:
    return crops_of(array, crop, 1)[0]


@pytest.mark.parametrize(("height", "width"), [(14, 40), (40, 14), (8, 8)])
def test_the_centre_at_scale_1_is_copied(height: int, width: int) -> None:
    picture = noise(height, width, 3)
    expected = picture[(height - 8) // 2 :][:8, (width - 8) // 2 :][:, :8].transpose(2, 0, 1)
    crop = crop_of(picture, CropConfig(8, min_scale=1, max_scale=1, center_crop=True))
    np.testing.assert_array_equal(crop, expected)
    tight = noise(8, width, 3)
    crop = crop_of(tight, CropConfig(8, center_crop=True))  # the shorter side has the resolution already
    np.testing.assert_array_equal(crop, tight[:, (width - 8) // 2 :][:, :8].transpose(2, 0, 1))


def test_random_places_turns_and_mirrorings_all_come() -> None:
    picture = noise(6, 5)
    windows = [picture[top:, left:][:4, :4] for top in range(3) for left in range(2)]
    both = windows + [window[:, ::-1] for window in windows]
    turned = [np.rot90(window, turns) for window in both for turns in range(4)]
    for flip, rotate, expected in ((False, False, windows), (True, False, both), (True, True, turned)):
        crops = crops_of(picture, CropConfig(4, 1, 1, 1, random_flip=flip, random_rotate=rotate), 500)
        assert {crop.tobytes() for crop in crops} == {window.tobytes() for window in expected}


def test_scales_are_log_uniform() -> None:
    slope = np.tile(np.arange(200, dtype=np.uint8), (200, 1))
    crops = crops_of(slope, CropConfig(16, 1, 0.25, 1), 300)
    # a crop at half the scale rises twice as fast
    scales = -np.log2([(int(crop[0, 8, 12]) - int(crop[0, 8, 4])) / 8 for crop in crops])
    assert -2.05 < scales.min() < -1.9
    assert -0.1 < scales.max() < 0.05
    assert abs(scales.mean() + 1) < 0.1  # uniform ones have -0.79


@pytest.mark.parametrize("scales", [{}, {"min_scale": 0.5, "max_scale": 1}])
def test_a_small_picture_is_enlarged(scales: dict[str, float]) -> None:
    picture = noise(5, 7, 3)
    expected = Image.fromarray(picture).resize((16, 16), Image.Resampling.BICUBIC, box=(1, 0, 6, 5))
    crop = crop_of(picture, CropConfig(16, center_crop=True, **scales))
    np.testing.assert_array_equal(crop, np.asarray(expected).transpose(2, 0, 1))


def test_digits_are_resized_bilinearly() -> None:
    digit = noise(28, 28)
    given = torch.from_numpy(digit)[None, None].double()
    expected = torch.nn.functional.interpolate(given, (32, 32), mode="bilinear")[0].numpy()
    crop = crop_of(digit, CropConfig(32, 1, image_interpolation_mode="bilinear"))
    assert np.abs(crop - expected).max() <= 1  # rounded after each direction
    assert np.abs(crop_of(digit, CropConfig(32, 1)) - expected).max() > 10


def test_channels_are_what_was_asked_for() -> None:
    colour, grey = noise(8, 8, 3), noise(8, 8)
    np.testing.assert_array_equal(
        crop_of(colour, CropConfig(8, 1))[0], np.asarray(Image.fromarray(colour).convert("L"))
    )
    np.testing.assert_array_equal(crop_of(grey, CropConfig(8, 3)), np.stack([grey] * 3))


# --- pairs -----------------------------------------------------------------------------------------------------------


def assert_aligned(source: sources.Source) -> None:
    """Of pairs of a noise picture and its negative, crops add up to white."""
    degraded, clean = next(batches(Samples(source, CROP, seed=0), **(ONE | {"batch_size": 20})))
    assert degraded.shape == clean.shape == (20, 3, 8, 8)
    assert (degraded.int() + clean.int() - 255).abs().max() <= 2
    assert clean.float().std() > 20


def test_the_two_of_a_pair_are_cut_alike(tmp_path: Path) -> None:
    pictures = [noise(20, 30, 3, seed=i) for i in range(3)]
    clean = fill(tmp_path / "clean", [encoded(picture) for picture in pictures])
    degraded = fill(tmp_path / "degraded", [encoded(255 - picture) for picture in pictures])
    (degraded / "01.png").rename(degraded / "01.BMP")
    source = sources.PairedFolders(degraded, clean)
    assert_aligned(source)
    np.testing.assert_array_equal(np.asarray(source[1][1]), pictures[1])
    (clean / "00.png").write_bytes(encoded(noise(20, 31, 3)))
    with pytest.raises(ImageError, match=r"one size, got \(30, 20\) and \(31, 20\)"):
        source[0]
    (clean / "extra.png").write_bytes(b"")
    (degraded / "02.png").unlink()
    with pytest.raises(InvalidInputError, match="2 without a partner: 02, extra only in .*clean.$"):
        sources.PairedFolders(degraded, clean)
    (clean / "00.jpg").write_bytes(b"")
    with pytest.raises(InvalidInputError, match="clean must hold one picture of each name"):
        sources.PairedFolders(degraded, clean)


def test_masks_are_cut_like_their_pairs(tmp_path: Path) -> None:
    pictures = [noise(20, 30, 3, seed=i) for i in range(3)]
    clean = fill(tmp_path / "clean", [encoded(picture) for picture in pictures])
    degraded = fill(tmp_path / "degraded", [encoded(255 - picture) for picture in pictures])
    masks = fill(tmp_path / "masks", [encoded(picture[..., 0]) for picture in pictures])  # grey: the red of the clean
    (masks / "02.png").rename(masks / "02.jpeg").write_bytes(encoded(pictures[2][..., 0]))
    source = sources.PairedFolders(degraded, clean, masks)
    assert [one.mode for one in source[2]] == ["RGB", "RGB", "L"]
    samples = next(batches(Samples(source, CROP, seed=0), **(ONE | {"batch_size": 20})))
    assert [one.shape for one in samples] == [(20, 3, 8, 8)] * 3
    assert (samples[0].int() + samples[1].int() - 255).abs().max() <= 2
    assert (samples[2].int() - samples[1][:, :1].int()).abs().max() <= 2
    assert source.name(1).endswith("degraded/01.png")
    (masks / "01.png").write_bytes(encoded(noise(20, 31)))
    with pytest.raises(ImageError, match=r"one size, got \(30, 20\) and \(30, 20\) and \(31, 20\)"):
        source[1]
    (masks / "01.png").unlink()
    with pytest.raises(InvalidInputError, match=r"degraded '.*' and masks '.*' must hold .* 1 without a partner: 01"):
        sources.PairedFolders(degraded, clean, masks)
    with pytest.raises(InvalidInputError, match="masks must be a folder, got 'nowhere'"):
        sources.PairedFolders(degraded, clean, "nowhere")


def test_concatenated_pairs_are_split(tmp_path: Path) -> None:
    left = noise(20, 30, 3)
    folder = fill(tmp_path / "both", [encoded(np.hstack([left, 255 - left])), encoded(noise(9, 9))])
    for side, clean in (("left", left), ("right", 255 - left)):
        pair = sources.ConcatenatedPairs(folder, side)[0]
        np.testing.assert_array_equal(np.stack(pair), [255 - clean, clean])
    with pytest.raises(ImageError, match="an even width, got 9"):
        sources.ConcatenatedPairs(folder)[1]
    assert_aligned(sources.Subset(sources.ConcatenatedPairs(folder), [0]))


def test_photographs_are_not_taken_for_pairs_without_a_word(tmp_path: Path) -> None:
    photos = fill(tmp_path / "photos", [encoded(noise(30, 41)), encoded(noise(30, 40, 3))])
    assert sources.ConcatenatedPairs(photos).doubt() == (
        f"the halves are tall, 20x30 in {photos}/01.png: is each picture really two side by side?"
    )
    assert sources.ConcatenatedPairs(fill(tmp_path / "pairs", [encoded(noise(30, 60))])).doubt() == ""
    (photos / "02.png").write_bytes(encoded(noise(30, 50)))  # one is enough
    assert sources.ConcatenatedPairs(photos).doubt() == ""


def test_what_cannot_be_used_is_said_once_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd = sources.ConcatenatedPairs(fill(tmp_path / "odd", [encoded(noise(9, 9)) for _ in range(6)]))
    config = DataConfig(str(tmp_path), resolution=8, validation_images=3)
    with pytest.raises(InvalidInputError, match=r"none of the 6 pictures of odd can be used, .*00.png: two .* got 9"):
        from_source(odd, config, 0, "odd")
    assert capsys.readouterr().err.count("skipped") == 6
    (tmp_path / "odd" / "03.png").write_bytes(encoded(noise(9, 18)))
    (tmp_path / "odd" / "04.png").write_bytes(encoded(noise(9, 18)))
    with pytest.raises(InvalidInputError, match="2 of the 6 pictures of odd can be used, which is too few; .*00.png"):
        from_source(odd, config, 0, "odd")
    (tmp_path / "odd" / "05.png").write_bytes(encoded(noise(9, 18)))
    (tmp_path / "odd" / "02.png").write_bytes(encoded(noise(9, 18)))
    made = from_source(odd, config, 0, "odd")
    assert (len(made.validation), made.count) == (3, 1)


# --- pictures --------------------------------------------------------------------------------------------------------

GREY, COLOUR, ALPHA = noise(5, 7, seed=1), noise(5, 7, 3, seed=2), noise(5, 7, 1, seed=3)
DEEP = GREY.astype(np.uint16) * 257
PALETTE = Image.fromarray(COLOUR).quantize(16)
CMYK = Image.fromarray(noise(5, 7, 4), "CMYK")
TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise


KINDS = {
    "grey": (encoded(GREY), GREY),
    "colour": (encoded(COLOUR), COLOUR),
    "RGBA": (encoded(np.dstack([COLOUR, ALPHA])), COLOUR),
    "LA": (encoded(np.dstack([GREY[..., None], ALPHA])), GREY),
    "16-bit PNG": (encoded(DEEP), GREY),
    "16-bit TIFF": (encoded(DEEP, "TIFF"), GREY),
    "float TIFF": (encoded(GREY.astype(np.float32) / 255, "TIFF"), GREY),
    "palette": (encoded(PALETTE), np.asarray(PALETTE.convert("RGB"))),
    "palette with alpha": (encoded(PALETTE, transparency=bytes(range(16))), np.asarray(PALETTE.convert("RGB"))),
    "CMYK": (encoded(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
    "EXIF": (encoded(COLOUR, exif=TURNED), np.rot90(COLOUR, -1)),
    "EXIF in TIFF": (encoded(COLOUR, "TIFF", exif=TURNED), np.rot90(COLOUR, -1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pictures_of_all_kinds_become_8_bits(tmp_path: Path, kind: str) -> None:
    content, expected = KINDS[kind]
    (tmp_path / "picture").write_bytes(content)
    for picture in (sources.read_picture(content), sources.read_picture(tmp_path / "picture")):
        assert picture.mode == ("L" if expected.ndim == 2 else "RGB")
        np.testing.assert_array_equal(np.asarray(picture), expected)


def bomb() -> bytes:
    """A picture of one pixel that claims to have 100 million."""
    content = bytearray(encoded(GREY[:1, :1]))
    content[16:24] = struct.pack(">II", 10_000, 10_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def test_hidden_pictures_are_left_out_and_linked_folders_are_read_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / ".cache" / "d", tmp_path / "elsewhere"  # the data set itself may be hidden
    for path in (
        *(root / name for name in ("a.png", "b.png", ".ipynb_checkpoints/a-checkpoint.png", ".thumbnails/b.png")),
        elsewhere / "c.png",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(path)
    (root / "._a.png").write_bytes(b"resource fork of macOS")
    (root / "sub").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(root)
    folder = sources.ImageFolder(root)
    assert [Path(folder.name(i)).name for i in range(len(folder))] == ["a.png", "b.png", "c.png"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "'<0 bytes>': not a picture"),
        (encoded(COLOUR)[:-30], "truncated"),
        (bomb(), "decompression bomb"),
        (encoded(GREY.astype(np.float32), "TIFF"), "beyond the limit"),
        (encoded(np.full((2, 2), 70_000, np.int32), "TIFF"), "must be in 0..65535"),
    ],
)
def test_unreadable_pictures_say_why(content: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        sources.read_picture(content)


# --- idx files -------------------------------------------------------------------------------------------------------

DIGITS = noise(3, 4, 5, seed=4)
IDX = struct.pack(">IIII", 0x803, *DIGITS.shape) + DIGITS.tobytes()


@pytest.mark.parametrize("name", ["digits", "train-images-idx3-ubyte", "raw/train-images-idx3-ubyte.gz"])
def test_idx_files_are_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "raw").mkdir()
    (tmp_path / name).write_bytes(gzip.compress(IDX) if name.endswith("gz") else IDX)
    (tmp_path / "raw" / "t10k-images-idx3-ubyte").write_bytes(b"not for training")
    source = sources.open_source(tmp_path / name if name == "digits" else tmp_path)
    np.testing.assert_array_equal([np.asarray(picture) for (picture,) in source], DIGITS)
    assert source.name(2) == f"{tmp_path / name}[2]"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (IDX[:-1], "3 pictures of 4 x 5 bytes after its header, got 59 bytes"),
        (IDX[:12], "got 0x00000803 and 12 bytes"),
        (b"\x89PNG" + IDX, "opens with 0x00000803 and three sizes, got 0x89504e47"),
        (gzip.compress(IDX, mtime=0)[:-9], "must be a whole gzip file"),
    ],
)
def test_other_files_than_idx_are_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "digits").write_bytes(content)
    with pytest.raises(InvalidInputError, match=reason):
        sources.open_source(tmp_path / "digits")


def test_a_small_idx_file_takes_no_large_memory(tmp_path: Path) -> None:
    """The header of a bomb is enough to refuse it."""
    file = tmp_path / "bomb.gz"
    with gzip.open(file, "wb") as stream:
        stream.write(struct.pack(">4i", 0x803, 1000, 2000, 2000) + bytes(1_000_000))
    with pytest.raises(InvalidInputError, match=r"announces 4000000000 bytes in a file of \d+"):
        sources.IdxImages(file)
    with gzip.open(file, "wb") as stream:  # honest in its header, and endless
        stream.write(struct.pack(">4i", 0x803, 2, 4, 5) + bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(InvalidInputError, match="got more than 40 bytes"):
        sources.IdxImages(file)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_every_picture_that_pillow_decodes_is_trained_on(tmp_path: Path) -> None:
    for name in ("a.ppm", "b.tga", "c.gif", "d.jfif"):
        Image.new("RGB", (16, 16), "green").save(tmp_path / name)
    (tmp_path / "e.npy").touch()
    assert len(sources.ImageFolder(tmp_path)) == 4


def test_real_data(shared: Path, tmp_path: Path) -> None:
    digits = sources.open_source(shared / "data" / "mnist")
    assert (len(digits), digits[0][0].size, digits[0][0].mode) == (60_000, (28, 28), "L")
    assert np.mean([np.asarray(digits[i][0]) for i in range(0, 60_000, 7)]) / 255 == pytest.approx(0.1307, abs=2e-3)
    with zipfile.ZipFile(shared / "data" / "facades" / "facades_128.zip") as file:
        file.extractall(tmp_path, [name for name in file.namelist() if "/test/" in f"/{name}"])
    facades = sources.ConcatenatedPairs(tmp_path)
    assert (len(facades), facades[0][0].size) == (106, (128, 128))
    # Label maps are flat, photographs are not: the left halves are the clean ones.
    flatness = [
        [np.abs(np.diff(np.asarray(one.convert("L")).astype(int))).mean() for one in facades[i]] for i in range(9)
    ]
    assert np.less(*np.mean(flatness, axis=0))


# --- data sets -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("local_datasets")
def test_data_sets_are_read(tmp_path: Path) -> None:
    pictures = [noise(9, 8, 3, seed=i) for i in range(4)]
    files = [encoded(picture) for picture in pictures] + [b"no picture"]
    folder = fill(tmp_path / "folder", files)
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "all.zip", "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    for where in (str(folder), str(tmp_path / "zipped"), parquet(tmp_path / "parquet", files)):
        source = sources.open_source(dataset_name=where)
        np.testing.assert_array_equal([np.asarray(source[i][0]) for i in range(4)], pictures)
        with pytest.raises(ImageError, match="not a picture"):
            source[4]
        assert (len(source), source.name(4)) == (5, "train[4]")
        with pytest.raises(InvalidInputError, match="cannot load dataset_name .* split 'test'"):
            sources.open_source(dataset_name=where, split="test")
    for open_any in (sources.open_source, sources.open_stream):
        with pytest.raises(InvalidInputError, match="no image_column named 'picture'; there are: image, label"):
            open_any(dataset_name=where, image_column="picture")
        with pytest.raises(InvalidInputError, match="image_column 'label' must be a column of datasets.Image"):
            open_any(dataset_name=where, image_column="label")


@pytest.mark.usefixtures("local_datasets")
@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_resumed_stream_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    files = [encoded(noise(12, 20, 3, seed=i)) for i in range(4)] + [b"no picture"]
    folder = parquet(tmp_path / "parquet", files, shards=2)
    whole = torch.stack(list(islice(streamed(folder, CROP), 16)))
    assert len({sample.numpy().tobytes() for sample in whole}) == 16
    options = {"batch_size": 2, "accumulation": 2, "num_workers": num_workers}
    assert torch.equal(take(stream(folder, CROP), 4, first_step=2, **options), whole[8:, 0])
    read, decoded = data.read_item, []
    monkeypatch.setattr(data, "read_item", lambda item: (decoded.append(item), read(item))[1])
    next(streamed(folder, first=8))
    assert len(decoded) == 1  # what it skips isn't
    with pytest.raises(InvalidInputError, match="num_workers must be 0 or 1 for a stream, got 2"):
        take(stream(folder), 1, num_workers=2)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.usefixtures("local_datasets")
def test_pictures_of_a_folder_are_measured_on_instead(tmp_path: Path, streaming: bool) -> None:
    measured = fill(tmp_path / "others", [flat(100 + 10 * i) for i in range(5)])
    where: dict[str, Any] = {"train_data_dir": str(fill(tmp_path / "seen", [flat(i) for i in range(4)]))}
    if streaming:
        where = {"dataset_name": parquet(tmp_path / "set", [flat(i) for i in range(4)]), "streaming": True}
    for wanted, expected in ((0, []), (3, [100, 120, 140]), (9, [100, 110, 120, 130, 140])):
        config = DataConfig(
            **where, validation_data_dir=str(measured), validation_images=wanted, resolution=4, channels=1
        )
        found = data.open_data(config, 0)
        assert [int(one[0, 0, 0]) for (one,) in found.validation] == expected
        name = "the stream of" if streaming else "4 pictures of seen"
        assert found.description.startswith(name)
        assert found.description.endswith(f"; measured on {len(expected)} of others")
        assert found.count == (None if streaming else 4)
        (trained,) = next(found.batches(batch_size=4, accumulation=1, rank=0, world_size=1, first_step=0))
        assert sorted(trained[:, 0, 0, 0].tolist()) == [0, 1, 2, 3]


def test_a_folder_to_measure_on_must_have_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = fill(tmp_path / "seen", [flat(i) for i in range(4)])
    partly, damaged = fill(tmp_path / "partly", [b"", flat(7)]), fill(tmp_path / "damaged", [b"", b""])

    def opened(folder: Path, **options: Any) -> data.TrainingData:
        config = DataConfig(train_data_dir=str(seen), validation_data_dir=str(folder), resolution=4, **options)
        return data.open_data(config, 0)

    assert opened(partly).description.endswith("measured on 1 of partly")
    with pytest.raises(InvalidInputError, match="validation_data_dir: none of the pictures of .*damaged' can be read"):
        opened(damaged)
    with pytest.raises(InvalidInputError, match=r"00\.png: cannot read"):
        opened(partly, strict=True)
    with pytest.raises(InvalidInputError, match="validation_data_dir must be a folder or an idx file, got .*absent'"):
        opened(tmp_path / "absent")
    capsys.readouterr()


@pytest.mark.usefixtures("local_datasets")
@pytest.mark.parametrize("shards", [1, 2])
def test_two_ranks_share_a_stream(tmp_path: Path, shards: int) -> None:
    folder = parquet(tmp_path / "parquet", [flat(i) for i in range(12)], shards)
    ranks = [colours(islice(streamed(folder, rank=rank, world_size=2), 12)) for rank in (0, 1)]
    assert sorted(ranks[0][:6] + ranks[1][:6]) == sorted(ranks[0][6:] + ranks[1][6:]) == list(range(12))
    assert ranks[0][:6] + ranks[1][:6] != list(range(12))
    assert ranks[0][:6] != ranks[0][6:]


@pytest.mark.usefixtures("local_datasets")
def test_crops_of_a_stream_depend_on_seed_and_rank(tmp_path: Path) -> None:
    folder = parquet(tmp_path / "parquet", [encoded(noise(12, 20, 3))] * 4)
    runs = [streamed(folder, CROP, seed=seed, rank=rank, world_size=2) for seed in (3, 4) for rank in (0, 1)]
    assert len({next(iter(run)).numpy().tobytes() for run in runs}) == 4


@pytest.mark.usefixtures("local_datasets")
def test_an_unreadable_item_is_replaced_by_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = parquet(tmp_path / "whole", [flat(i) for i in range(6)])
    damaged = parquet(tmp_path / "damaged", [flat(i) if i not in (2, 3) else b"no picture" for i in range(6)])
    expected = colours(islice(streamed(whole), 30))
    for n in reversed(range(29)):
        expected[n] = expected[n + 1] if expected[n] in (2, 3) else expected[n]
    assert colours(islice(streamed(damaged), 24)) == expected[:24]
    assert "skipped stream[" in capsys.readouterr().err
    for first in range(24):
        assert colours(islice(streamed(damaged, first=first), 24 - first)) == expected[first:24]
    with pytest.raises(InvalidInputError, match=r"stream\[\d\]: cannot read '<10 bytes>'"):
        list(islice(streamed(damaged, strict=True), 6))
    none = parquet(tmp_path / "none", [b"no picture"] * 3)
    with pytest.raises(InvalidInputError, match="stream: none of the 3 pictures of an epoch can be read"):
        next(streamed(none, rank=1, world_size=2))
    one = parquet(tmp_path / "one", [flat(1)])
    assert colours(islice(streamed(one, rank=1, world_size=2), 3)) == [1] * 3


# --- arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: CropConfig(0), "resolution must be a whole number >= 1, got 0"),
        (lambda: CropConfig(8, channels=2), "channels must be 1 or 3, got 2"),
        (lambda: CropConfig(8, min_scale=1), "given together or not at all, got 1 and None"),
        (lambda: CropConfig(8, min_scale=1, max_scale=0.5), "max_scale must be a number >= 1, got 0.5"),
        (lambda: CropConfig(8, min_scale=0, max_scale=1), "min_scale must be a number > 0, got 0"),
        (
            lambda: CropConfig(8, image_interpolation_mode="nearest"),  # type: ignore[arg-type]
            "image_interpolation_mode must be one of bilinear, bicubic, lanczos, got 'nearest'",
        ),
        (lambda: sources.open_source(), "exactly one of train_data_dir and dataset_name .* None and None"),
        (lambda: sources.open_source("a", "b"), "exactly one of train_data_dir and dataset_name .* 'a' and 'b'"),
        (lambda: sources.open_source("nowhere"), "train_data_dir must be a folder or an idx file, got 'nowhere'"),
        (lambda: sources.open_source(Path(__file__).parent), "tests' must hold at least two pictures .* found 0"),
        (lambda: sources.ImageFolder("nowhere"), "folder must be a folder, got 'nowhere'"),
        (lambda: sources.PairedFolders(".", "nowhere"), "clean must be a folder, got 'nowhere'"),
        (lambda: sources.ConcatenatedPairs(".", "top"), "clean must be 'left' or 'right', got 'top'"),
        (lambda: sources.IdxImages("nowhere"), "path must be an idx file, .* got 'nowhere'"),
        (lambda: sources.Subset(sources.ImageFolder(Path(__file__).parent), [0]), r"indices\[0\] must be"),
        (lambda: Samples(sources.ImageFolder(Path(__file__).parent), FLAT, seed=0), r"len\(source\) must be .* got 0"),
    ],
)
def test_wrong_arguments_are_named(call: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        call()
