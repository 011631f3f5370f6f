"""Pictures in tars and data sets, and several pictures at once: the same results as of files, one by one."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from diffusers_restore import images, restoring
from diffusers_restore.restoring import ArgumentError, pair
from diffusers_restore.restoring.packed import members
from diffusers_restore.restoring.pairing import DatasetOptions


def picture(seed: int, width: int = 16, height: int = 12) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_tar(
    path: Path, files: dict[str, bytes], change: Callable[[tarfile.TarInfo], None] = lambda info: None
) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            change(info)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def restorer() -> restoring.restorer.Restorer:
    return restoring.load(strength=1, device="cpu", dtype="float32")


def names(out: Path) -> list[str]:
    return sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))


def test_a_tar_is_restored_as_a_folder(restorer: restoring.restorer.Restorer, tmp_path: Path) -> None:
    files = {"a.png": picture(0), "in/b.png": picture(1), "in/b.json": b"{}", "./c.png": picture(2), "._c.png": b"mac"}
    tar, folder = make_tar(tmp_path / "shard.tar", files), tmp_path / "files"
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    restorer.restore_files(tar, f"{tmp_path}/of_tar/", resume=True)
    restorer.restore_files(folder, f"{tmp_path}/of_folder/")
    assert names(tmp_path / "of_tar") == ["a.png", "c.png", "in/b.png"] == names(tmp_path / "of_folder")
    for name in names(tmp_path / "of_tar"):
        assert (tmp_path / "of_tar" / name).read_bytes() == (tmp_path / "of_folder" / name).read_bytes()
    again = restorer.restore_files(tar, f"{tmp_path}/of_tar/", resume=True)
    assert again == []


def test_tars_of_a_folder_are_folders_in_it(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for i in range(2):
        make_tar(tmp_path / "shards" / f"{i}.tar", {"000.png": picture(i), "000.cls": b"3"})
    told: list[str] = []
    for given in (tmp_path / "shards", f"{tmp_path}/shards/*.tar"):
        jobs = pair(given, f"{tmp_path}/out/", tell=told.append)
        assert [job.targets[0].relative_to(tmp_path / "out").as_posix() for job in jobs] == ["0/000.png", "1/000.png"]
    assert "0.tar/000.cls" in told[0]
    with pytest.raises(ArgumentError, match="is the name of one file; folders, patterns, archives"):
        pair(tmp_path / "shards" / "0.tar", tmp_path / "out.png")


def test_the_last_of_one_name_counts(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    with tarfile.open(tar, "w") as file:
        for data in (b"old", b"new!"):
            info = tarfile.TarInfo("a.png")
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    (member,) = members(tar)
    assert member.read_bytes() == b"new!"
    assert str(member) == f"{tar}/a.png"


@pytest.mark.parametrize("name", ["../a.png", "/tmp/a.png", "in/../../a.png"])
def test_places_outside_are_refused(name: str, tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar", {name: picture(0)})
    with pytest.raises(ArgumentError, match="the name of a member of an archive must be a place within it"):
        pair(tar, f"{tmp_path}/out/")


def test_links_are_what_they_lead_to(tmp_path: Path) -> None:
    """Hard links, as tar makes of a file with two names, and symbolic ones; those that lead out fail by themselves."""
    tar = tmp_path / "a.tar"
    links = [("b.png", tarfile.LNKTYPE, "in/a.png"), ("in/c.png", tarfile.SYMTYPE, "a.png")]
    links += [("d.png", tarfile.SYMTYPE, "/etc/passwd"), ("e.png", tarfile.SYMTYPE, "../../a.png")]
    with tarfile.open(tar, "w") as file:
        info = tarfile.TarInfo("in/a.png")
        info.size = 4
        file.addfile(info, io.BytesIO(b"data"))
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            file.addfile(info)
    found = {str(member.relative): member for member in members(tar)}
    assert [found[name].read_bytes() for name in ("in/a.png", "b.png", "in/c.png")] == [b"data"] * 3
    for name in ("d.png", "e.png"):
        with pytest.raises(OSError, match="is a link to .*, which the archive doesn't have before it"):
            found[name].read_bytes()


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    """Python's tarfile ends there without a word; so would the pictures behind it."""
    tar = make_tar(tmp_path / "a.tar", {f"{i}.png": b"data" for i in range(3)})
    data = bytearray(tar.read_bytes())
    data[1024 + 100] ^= 1  # within the second header
    tar.write_bytes(data)
    with pytest.raises(ArgumentError, match=r"cannot read the archive .*: it is damaged at byte 1024"):
        members(tar)
    whole = make_tar(tmp_path / "b.tar", {"a.png": b"data"})
    (tmp_path / "c.tar").write_bytes(whole.read_bytes()[:1024])  # without the blocks of zeros at its end
    assert len(members(tmp_path / "c.tar")) == len(members(whole)) == 1


def test_a_damaged_tar_of_a_folder_fails_alone(restorer: restoring.restorer.Restorer, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    make_tar(tmp_path / "in" / "good.tar", {"a.png": picture(0)})
    (tmp_path / "in" / "bad.tar").write_bytes(b"no tar at all")
    outcomes = restorer.restore_files(tmp_path / "in", f"{tmp_path}/out/")
    assert names(tmp_path / "out") == ["good/a.png"]
    assert [outcome.job.name for outcome in outcomes if outcome.error] == [f"{tmp_path}/in/bad.tar"]


def test_damaged_and_compressed_archives_are_refused(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar", {"a.png": picture(0, 64, 64), "b.png": picture(1)})
    tar.write_bytes(tar.read_bytes()[:2000])
    with pytest.raises(ArgumentError, match=r"cannot read the archive .*a.tar"):
        pair(tar, f"{tmp_path}/out/")
    (tmp_path / "b.tar").write_bytes(b"no tar at all")
    with pytest.raises(ArgumentError, match=r"cannot read the archive .*b.tar"):
        pair(tmp_path / "b.tar", f"{tmp_path}/out/")
    (tmp_path / "c.tar.gz").write_bytes(b"")
    with pytest.raises(ArgumentError, match="is compressed: unpack it to a folder, or to a .tar"):
        pair(tmp_path / "c.tar.gz", f"{tmp_path}/out/")


def test_a_bad_member_fails_alone_and_by_its_name(restorer: restoring.restorer.Restorer, tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar", {"a.png": b"no picture", "b.png": picture(1), "c.npy": b"\x93NUMPY"})
    outcomes = restorer.restore_files(tar, f"{tmp_path}/out/")
    assert names(tmp_path / "out") == ["b.png"]
    failed = {outcome.job.name: str(outcome.error) for outcome in outcomes if outcome.error}
    assert set(failed) == {f"{tar}/a.png", f"{tar}/c.npy"}
    assert all(repr(name) in message for name, message in failed.items()), failed


@pytest.mark.parametrize("kind", ["parquet", "saved", "saved splits"])
def test_a_data_set_gives_numbered_pictures(kind: str, restorer: restoring.restorer.Restorer, tmp_path: Path) -> None:
    data = {"image": [{"bytes": picture(i), "path": None} for i in range(2)], "label": [0, 1]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    dataset, folder = datasets.Dataset.from_dict(data, features), tmp_path / "set"
    if kind == "parquet":
        folder.mkdir()
        dataset.to_parquet(folder / "train-00000-of-00001.parquet")
    else:
        (datasets.DatasetDict({"train": dataset}) if "splits" in kind else dataset).save_to_disk(folder)
    restorer.restore_files(folder, f"{tmp_path}/out/", resume=True)
    assert names(tmp_path / "out") == ["000000.png", "000001.png"]
    (tmp_path / "b.png").write_bytes(picture(1))
    restorer.restore_files(tmp_path / "b.png", tmp_path / "b_out.png")
    assert torch.equal(images.load(tmp_path / "b_out.png").tensor, images.load(tmp_path / "out/000001.png").tensor)
    assert restorer.restore_files(folder, f"{tmp_path}/out/", resume=True) == []
    for options, wanted in (
        (DatasetOptions(split="val"), "val"),
        (DatasetOptions(column="label"), "image_column 'label' must be a column of datasets.Image"),
        (DatasetOptions(column="picture"), "no image_column named 'picture'; there are: image, label"),
    ):
        with pytest.raises(ArgumentError, match=wanted):
            restorer.restore_files(folder, f"{tmp_path}/out/", dataset=options)


def test_an_empty_split_hides_no_other(restorer: restoring.restorer.Restorer, tmp_path: Path) -> None:
    features, folder = datasets.Features({"image": datasets.Image()}), tmp_path / "set"
    full = datasets.Dataset.from_dict({"image": [{"bytes": picture(0), "path": None}]}, features)
    empty = datasets.Dataset.from_dict({"image": []}, features)
    datasets.DatasetDict({"train": full, "test": empty}).save_to_disk(folder)
    restorer.restore_files(folder, f"{tmp_path}/out/")
    assert names(tmp_path / "out") == ["000000.png"]
    for split, wanted in (("test", "it holds no pictures"), ("val", "there is no such split; there are: train, test")):
        with pytest.raises(ArgumentError, match=wanted):
            restorer.restore_files(folder, f"{tmp_path}/out/", dataset=DatasetOptions(split=split))


def test_a_mistyped_file_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **options: pytest.fail("asked the Hub"))
    (tmp_path / "scans").mkdir()
    for name in ("scans/old", "photos/a.png", "photo", "/a/b", "a/b/c"):
        with pytest.raises(ArgumentError, match=f"there is no file or folder '{name}'"):
            pair(name, "out/")


def test_a_name_of_the_hub_is_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(name: str, config_name: str | None, split: str, streaming: bool) -> datasets.Dataset:
        assert (name, config_name, split, streaming) == ("owner/name", "small", "test", False)
        rows = {"photo": [{"bytes": picture(0), "path": None}]}
        return datasets.Dataset.from_dict(rows, datasets.Features({"photo": datasets.Image()}))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    (job,) = pair("owner/name", f"{tmp_path}/out/", dataset=DatasetOptions("small", "test"))
    assert (job.name, job.targets[0].name) == ("owner/name/test/000000", "000000.png")


@pytest.mark.parametrize("model", ["restorer", "prior"])
def test_several_at_once_are_as_each_alone(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes differ, a picture is bad: those of one size go through the pipeline together, and nothing changes."""
    (tmp_path / "in").mkdir()
    for i in range(5):
        (tmp_path / "in" / f"{i}.png").write_bytes(picture(i, 16, 12 if i < 3 else 20))
    (tmp_path / "in" / "5.png").write_bytes(b"no picture")
    options = {"strength": 1} if model == "restorer" else {"task": "denoise", "sigma_y": 0.1, "samples": 2, "steps": 2}
    restorer = restoring.load(**options, device="cpu", dtype="float32")
    sizes: list[int] = []
    call = type(restorer.pipe).__call__

    def counting(self: object, image: torch.Tensor, **given: object) -> object:
        sizes.append(len(image))
        return call(self, image, **given)

    monkeypatch.setattr(type(restorer.pipe), "__call__", counting)
    alone = restorer.restore_files(tmp_path / "in", f"{tmp_path}/alone/")
    assert set(sizes) == {1}
    sizes.clear()
    together = restorer.restore_files(tmp_path / "in", f"{tmp_path}/together/", batch_size=4)
    assert sorted(sizes) == ([2, 3] if model == "restorer" else [2, 2, 3, 3]), sizes
    assert {one.job.source: one.size for one in together} == {one.job.source: one.size for one in alone}
    assert [one.number for one in together] == list(range(1, 7))
    assert len(names(tmp_path / "alone")) == (5 if model == "restorer" else 10)
    for name in names(tmp_path / "alone"):
        assert (tmp_path / "together" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_batch_sizes_that_are_none(tmp_path: Path, restorer: restoring.restorer.Restorer) -> None:
    (tmp_path / "a.png").write_bytes(picture(0))
    with pytest.raises(ArgumentError, match="batch_size must be a whole number >= 1, got 0"):
        restorer.restore_files(tmp_path / "a.png", tmp_path / "b.png", batch_size=0)


def test_results_lie_outside_of_a_data_set(restorer: restoring.restorer.Restorer, tmp_path: Path) -> None:
    """They would be its rows the next time."""
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.parquet").write_bytes(b"")
    for out in ("set", "set/out"):
        with pytest.raises(ArgumentError, match="output .* must not lie within the data set"):
            restorer.restore_files(tmp_path / "set", f"{tmp_path}/{out}/")
    with pytest.raises(ArgumentError, match="is a table of a data set: give the folder"):
        restorer.restore_files(tmp_path / "set" / "a.parquet", f"{tmp_path}/out/")
    (tmp_path / "a.png").write_bytes(picture(0))
    with pytest.raises(ArgumentError, match="image_column is for an input that is a data set; there is none"):
        restorer.restore_files(tmp_path / "a.png", tmp_path / "b.png", dataset=DatasetOptions(column="image"))


def test_a_row_that_leads_nowhere_fails_alone(
    restorer: restoring.restorer.Restorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"bytes": picture(0), "path": None}, {"bytes": None, "path": "foo://x.png"}, None]
    dataset = datasets.Dataset.from_dict({"image": rows}, datasets.Features({"image": datasets.Image()}))
    monkeypatch.setattr(datasets, "load_dataset", lambda *given, **options: dataset)
    outcomes = restorer.restore_files("owner/name", f"{tmp_path}/out/", resume=True)
    assert names(tmp_path / "out") == ["000000.png"]
    assert [str(outcome.error)[:17] for outcome in outcomes if outcome.error] == [
        "cannot read row 1",
        "the item holds no",
    ]


def test_one_of_a_batch_fails_alone(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        np.save(tmp_path / "in" / f"{i}.npy", np.full((3, 12, 16), 9.0 if i == 1 else 0.1 * i, np.float32))
    restorer = restoring.load(task="denoise", sigma_y=0.05, steps=1, device="cpu", dtype="float32")
    outcomes = restorer.restore_files(tmp_path / "in", f"{tmp_path}/out/", batch_size=3)
    assert names(tmp_path / "out") == ["0.png", "2.png"]
    assert [outcome.job.source.name for outcome in outcomes if outcome.error] == ["1.npy"]
