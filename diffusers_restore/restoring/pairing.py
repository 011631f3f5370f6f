"""Which files are read, and which are written for them: files, folders and patterns to a file or a folder."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..files import visible_files
from .arguments import ArgumentError, check_path
from .jobs import ALPHA_SUFFIXES, WRITABLE_SUFFIXES, Job, PathInput, printable
from .packed import TAR, Packed, is_tar, members, rows

_SHOWN_SUFFIXES = ".png, .jpg, .webp, .tif, .avif, .jp2, .bmp, .gif, .npy or as another format of Pillow"
_TABLES = (".parquet", ".arrow")
_OF_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_SHOWN = 5
"""How many files a message names."""


class _Found(NamedTuple):
    source: Path | Packed
    relative: Path  # its place in an output folder


@dataclass(frozen=True)
class DatasetOptions:
    """What is read of an input that is a data set.

    Attributes:
        config_name: which configuration; None is the default one.
        split: which split.
        column: which column; None is the only one with pictures.
    """

    config_name: str | None = None
    split: str = "train"
    column: str | None = None


DEFAULT_DATASET = DatasetOptions()
_OPTIONS = {"config_name": "dataset_config_name", "split": "dataset_split", "column": "image_column"}


def restored_suffix(source: Path | Packed) -> str:
    """Suffix of the result for a picture in a folder: that of the picture, or .png if that can't be written."""
    return source.suffix if source.suffix.lower() in (*ALPHA_SUFFIXES, ".jpg", ".jpeg") else ".png"


def pair(
    inputs: PathInput | Sequence[PathInput],
    output: PathInput,
    suffix: Callable[[Path | Packed], str] = restored_suffix,
    samples: int = 1,
    tell: Callable[[str], object] = lambda left_out: None,
    dataset: DatasetOptions = DEFAULT_DATASET,
) -> list[Job]:
    """Pair the files to read with the files to write.

    In a folder, a result is named as its source. Where two sources of a folder would get one name, the one whose suffix
    changes keeps its old suffix within the name: scan.png stays, scan.bmp becomes scan.bmp.png.

    Args:
        inputs: one or several: files, folders (with all folders in them, whose layout is kept), patterns, tars, which
            are as folders, and data sets, of the Hub or in a local folder.
        output: a file for one picture, else a folder: one that exists, or a name with a slash at its end or no suffix.
        suffix: of the result for a source, in a folder.
        samples: results for each input, which get a number each; 1 gets none.
        tell: is called with a sentence about what lies in a folder and is no picture.
        dataset: what is read of data sets.

    Raises:
        ArgumentError: nothing to read, two results of one name, or a result that would replace an input.
    """
    sources = [_as_text("inputs", one) for one in _as_several(inputs)]
    output = _as_text("output", output)
    out = Path(output)
    folder = names_folder(output)
    single = len(sources) == 1 and Path(sources[0]).is_file() and not is_tar(Path(sources[0]))
    left_out: list[Path | Packed] = []
    found = list(_expand(sources, out, left_out, dataset))
    given = [
        name for name in ("config_name", "split", "column") if getattr(dataset, name) != getattr(DEFAULT_DATASET, name)
    ]
    if given and not any(isinstance(one.source, Packed) and one.source.file is None for one in found):
        raise ArgumentError(f"{{{_OPTIONS[given[0]]}}} is for an input that is a data set; there is none")
    if not folder and not single:
        raise ArgumentError(
            "{output} {0!r} is the name of one file; folders, patterns, archives, data sets and several files need a "
            "folder",
            output,
        )
    if left_out:
        tell(f"left out, no pictures: {_some(left_out)}")

    jobs: dict[tuple[Path | Packed, Path], Job] = {}
    names = _names(found, suffix)
    for (source, relative), name in zip(found, names, strict=True):
        target = out / name if folder else out
        numbered = [target.with_stem(f"{target.stem}-{i + 1}") for i in range(samples)] if samples > 1 else [target]
        jobs[source, target] = Job(source, tuple(numbered), fixed=not folder, relative=relative)
    _check_targets(list(jobs.values()), output)
    return list(jobs.values())


def _names(found: Sequence[_Found], suffix: Callable[[Path | Packed], str]) -> list[Path]:
    """The results' places in the output folder, each with another name as far as its suffix allows."""
    plain = [relative.with_suffix(suffix(source)) for source, relative in found]
    wanted = Counter({(relative, name): 1 for (_, relative), name in zip(found, plain, strict=True)})
    times = Counter(name for _, name in wanted)
    return [
        name if times[name] == 1 or relative == name else relative.with_name(f"{relative.name}{name.suffix}")
        for (_, relative), name in zip(found, plain, strict=True)
    ]


def _check_targets(jobs: Sequence[Job], output: str) -> None:
    """Refuse two results of one name, and results in the place of inputs."""
    taken: dict[str, Job] = {}
    for job in jobs:
        for target in job.targets:
            other = taken.setdefault(os.path.normcase(target), job)
            if other is not job:
                raise ArgumentError(
                    "{0!r} and {1!r} would both be written to {2!r}; restore them to different folders",
                    *(other.name, job.name, printable(target)),
                )
    check_not_overwritten(jobs, {"inputs": files_of(jobs)}, output)


def files_of(jobs: Iterable[Job]) -> list[Path]:
    """The files that jobs read."""
    return list({file for job in jobs if (file := job.file) is not None})


def check_not_overwritten(
    jobs: Iterable[Job], read: dict[str, Iterable[Path]], output: str | None = None, written_by: str = "output"
) -> None:
    """Refuse results in the place of files that are read, under whatever name.

    Args:
        jobs: with the results.
        read: the files of each argument.
        output: as it was given.
        written_by: the argument that says where the results go.

    Raises:
        ArgumentError: naming the argument.
    """
    of_file = {_identity(file): (name, file) for name, files in read.items() for file in files if file.exists()}
    for job in jobs:
        for target in job.targets:
            if target.exists() and _identity(target) in of_file:
                name, file = of_file[_identity(target)]
                what = "the input" if name == "inputs" else f"the {{{name}}}"
                raise ArgumentError(
                    f"{{{written_by}}} {{0!r}} would overwrite {what} {{1!r}}",
                    *(printable(target) if output is None else output, printable(file)),
                )


def check_quality(jobs: Iterable[Job], quality: int | None) -> None:
    """Refuse a quality for a file that has none; a folder of results may hold such files, too.

    Raises:
        ArgumentError: naming it.
    """
    from ..images import QUALITY_SUFFIXES  # with torch, which `--help` does without

    for job in jobs:
        if quality is not None and job.fixed and job.targets[0].suffix.lower() not in QUALITY_SUFFIXES:
            suffixes, name = ", ".join(QUALITY_SUFFIXES), printable(job.targets[0])
            raise ArgumentError("{quality} is for {0}, which {1!r} isn't", suffixes, name)


def check_outside(jobs: Iterable[Job], model: str, written_by: str = "output") -> None:
    """Refuse results in the place of files of a model's folder.

    Raises:
        ArgumentError: naming both.
    """
    folder = Path(model)
    if not folder.is_dir():
        return
    for job in jobs:
        for target in job.targets:
            if target.exists() and folder.resolve() in target.resolve().parents:
                raise ArgumentError(
                    f"{{{written_by}}} {{0!r}} would overwrite a file of the {{model}} {{1!r}}",
                    *(printable(target), printable(folder)),
                )


def _identity(file: Path) -> tuple[int, int]:
    """What two names of one file have in common."""
    state = file.stat()
    return state.st_dev, state.st_ino


def _as_several(inputs: Any) -> list[Any]:
    if isinstance(inputs, (str, os.PathLike)):
        return [inputs]
    if not isinstance(inputs, Sequence) or not inputs:
        raise ArgumentError("{inputs} must be a file, folder or pattern, or a list of these, got {0!r:.99}", inputs)
    return list(inputs)


def _as_text(name: str, path: Any) -> str:
    check_path(name, path)
    return str(os.fspath(path))  # with the slash at its end


def names_folder(output: str) -> bool:
    """Whether the output is a folder: one that exists, or a name that ends with a slash or has no suffix.

    Raises:
        ArgumentError: the suffix of a file names no format.
    """
    out = Path(output)
    if out.is_dir() or not out.suffix or output.endswith(("/", os.sep)):
        return True
    check_writable("output", out)
    return False


def check_there(inputs: Iterable[str]) -> None:
    """Raise ArgumentError for an input that can be nothing: no file, folder or pattern, and no repository's name."""
    for text in inputs:
        if not (os.path.lexists(text) or glob.has_magic(text) or _may_be_on_the_hub(text)):
            raise ArgumentError("there is no file or folder {0!r}", text)


def check_writable(name: str, file: Path) -> None:
    """Raise ArgumentError for a file whose suffix names no format that is written."""
    if file.suffix.lower() not in WRITABLE_SUFFIXES:
        more = "; for a folder, end with a slash" if name == "output" else ""
        raise ArgumentError(
            f"{{{name}}} {{0!r}}: the suffix of a file must be one of {{1}}{more}",
            *(printable(file), ", ".join(WRITABLE_SUFFIXES)),
        )


def _expand(
    inputs: Sequence[str], out: Path, left_out: list[Path | Packed], dataset: DatasetOptions
) -> Iterator[_Found]:
    """Every picture; what else is in folders, patterns and archives is added to `left_out`."""
    check_there(inputs)
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            try:
                files = list(_visible_files(path, out))
            except OSError as error:
                raise ArgumentError("cannot read the folder {0!r}: {1}", text, error.strerror) from error
            if _holds_dataset(files):
                if path.resolve() in (out.resolve(), *out.resolve().parents):
                    raise ArgumentError("{output} {0!r} must not lie within the data set {1!r}", str(out), text)
                yield from _rows(text, dataset)
                continue
            where, below = "in the folder", _open_tars((file, file.relative_to(path)) for file in files)
        elif path.is_file() and is_tar(path):
            where, below = "in the archive", (_Found(member, member.relative) for member in members(path))
        elif path.suffix.lower() in _TABLES and path.is_file():
            raise ArgumentError("{0!r} is a table of a data set: give the folder that it is in", text)
        elif path.is_file():
            yield _Found(path, Path(path.name))
            continue
        elif glob.has_magic(text):
            matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))]  # noqa: PTH207
            named = ((match, Path(match.name)) for match in matches if not match.is_dir())
            where, below = "of the pattern", _open_tars(named)
        elif path.exists():
            raise ArgumentError("{0!r} is neither a file nor a folder, but a pipe, a device or the like", text)
        elif path.is_symlink():
            raise ArgumentError("{0!r} is a link to a file that doesn't exist", text)
        else:
            yield from _rows(text, dataset)
            continue
        found = []
        for one in below:
            if is_readable(one.source) or _is_damaged_tar(one.source):
                found.append(one)
            else:
                left_out.append(one.source)
        if not found:
            raise ArgumentError("no pictures {0} {1!r}; they end in {2}", where, text, _SHOWN_SUFFIXES)
        yield from found


def _open_tars(files: Iterable[tuple[Path, Path]]) -> Iterator[_Found]:
    """Files and their places; what is in a tar has its place in a folder of the tar's name.

    One that is damaged doesn't stop the others: it stays as it is, and fails as a picture.
    """
    for file, place in files:
        if not (file.suffix.lower() == TAR and file.is_file()):
            yield _Found(file, place)
            continue
        try:
            inside = members(file)
        except ArgumentError:
            yield _Found(file, place)
            continue
        yield from (_Found(member, place.with_suffix("") / member.relative) for member in inside)


def _is_damaged_tar(source: Path | Packed) -> bool:
    return isinstance(source, Path) and source.suffix.lower() == TAR and source.is_file()


def _rows(name: str, dataset: DatasetOptions) -> list[_Found]:
    found = [_Found(row, row.relative) for row in rows(name, dataset.config_name, dataset.split, dataset.column)]
    if not found:
        raise ArgumentError("the data set {0!r} has no pictures in its split {1!r}", name, dataset.split)
    return found


def _holds_dataset(files: Iterable[Path]) -> bool:
    """Whether a folder holds tables, and no pictures beside them."""
    suffixes = {file.suffix.lower() for file in files}
    return not suffixes.isdisjoint(_TABLES) and suffixes.isdisjoint(_suffixes() | {TAR})


def _may_be_on_the_hub(text: str) -> bool:
    """Whether a name that isn't here is that of a data set, and not a mistyped one of a file."""
    owner, _, name = text.partition("/")
    suffix = Path(name).suffix
    of_file = suffix.lower() in _suffixes() or (suffix and not suffix[1].isdigit())  # models and data have versions
    return bool(_OF_HUB.fullmatch(text)) and not Path(owner).exists() and not of_file


def _visible_files(folder: Path, out: Path) -> Iterator[Path]:
    """The files in a folder and those below it, without hidden ones and without the output."""
    if not os.access(folder, os.R_OK | os.X_OK):
        raise PermissionError(13, "no permission")
    inside = out.resolve() if out.resolve() != folder.resolve() else None
    return (file for file in visible_files(folder) if inside is None or inside not in file.resolve().parents)


def is_readable(path: Path | Packed) -> bool:
    """Whether a file is a picture, by its suffix; a broken link is none."""
    return path.suffix.lower() in _suffixes() and (isinstance(path, Packed) or path.is_file())


def _suffixes() -> frozenset[str]:
    from ..decoding import readable_suffixes  # with Pillow, which `--help` does without

    return readable_suffixes()


def _some(files: Sequence[Path | Packed]) -> str:
    """Names of files, of many the first ones."""
    names = [printable(file) + (" (a broken link)" if _is_broken(file) else "") for file in files[:_SHOWN]]
    return ", ".join(names) + (f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else "")


def _is_broken(file: Path | Packed) -> bool:
    return isinstance(file, Path) and not file.exists()
