"""Model cards: names can't bring HTML, links or code into them, and folders of a machine aren't told."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import Tensor

from diffusers_restore.hub.cards import CardText, Source, code, code_block, new_card, plain, public
from diffusers_restore.training.config import LoopConfig
from diffusers_restore.training.data import TrainingData
from diffusers_restore.training.export import command_line, model_card
from diffusers_restore.training.progress import Progress

EVIL = "<img src=x onerror=alert(1)>[a](javascript:b)`c`\n# d | <script>"
TEXT = CardText("What.", 'pipe = Some.from_pretrained("{repo_id}")', ("image-to-image",))


def rendered_html(markdown: str) -> set[str]:
    """The tags outside of code, which a reader's browser would see."""
    prose = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"(?<!\\)(`+)(?!`).+?(?<!`)\1(?!`)", "", prose)
    return set(re.findall(r"</?\w+[^>]*>", prose)) - {"<details>", "</details>", "<summary>", "</summary>"}


def test_names_are_shown_as_they_are() -> None:
    assert plain(EVIL) == (r"&lt;img src=x onerror=alert(1)&gt;\[a\](javascript:b)\`c\` # d \| &lt;script&gt;")
    assert plain("3 pictures of my_photos; 1 more") == "3 pictures of my_photos; 1 more"
    assert code("a") == "`a`"
    assert code("a `` b") == "```a `` b```"
    assert code("`a`") == "`` `a` ``"
    assert code_block("bash", "echo '\n```\n'") == "````bash\necho '\n```\n'\n````"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/me/private/photos", "photos"),
        ("/home/me/private/photos/", "photos"),
        ("~/photos", "photos"),
        ("../photos", "photos"),
        ("runs/of/may", "may"),
        (r"C:\Users\me\photos", "photos"),
        ("there/photos", "photos"),
        ("huggan/flowers", "huggan/flowers"),
        ("photos", "photos"),
        (["/a/b", 3, None], ["b", 3, None]),
        ({"file": "/a/b", "taps": 11}, {"file": "b", "taps": 11}),
        ("{file: /home/me/b, taps: 11}", "{file: b, taps: 11}"),
        (None, None),
        (0.5, 0.5),
    ],
)
def test_of_a_path_the_last_part_is_told(
    value: object, shown: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "there" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert public(value) == shown


def test_a_folder_that_looks_like_a_repository_is_none() -> None:
    assert public("me/photos", is_path=True) == "photos"


def test_a_command_tells_no_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--train_data_dir", "/home/me/secret/photos", "--output_dir=/home/me/secret/prior", "--resolution", "64"]
    words += ["--dataset_name", "huggan/flowers", "--validation_data_dir", "secret/measured"]
    monkeypatch.setattr(sys, "argv", ["/home/me/secret/bin/train_prior.py", *words])
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert command_line() == (
        "python train_prior.py --train_data_dir photos --output_dir=prior --resolution 64 "
        "--dataset_name huggan/flowers --validation_data_dir measured"
    )


@pytest.mark.parametrize("source", [None, Source(f"/home/me/{EVIL}", None, "# Theirs", {})])
def test_a_new_card_holds_no_html_of_names(source: Source | None) -> None:
    card = new_card(TEXT, f'owner/{EVIL}"; import os', source)
    assert rendered_html(card) == set()
    assert "/home/me" not in card
    (snippet,) = re.findall(r"^(`{3,})python\n(.*?)^\1$", card, re.MULTILINE | re.DOTALL)
    scope = {"Some": type("Some", (), {"from_pretrained": staticmethod(lambda name: name)})}
    exec(snippet[1], scope)
    assert scope["pipe"] == f'owner/{EVIL}"; import os'


def no_batches(**numbers: int) -> Iterator[tuple[Tensor, ...]]:
    raise NotImplementedError


@pytest.mark.parametrize("warning", [None, "it is worse"])
def test_the_card_of_a_training_holds_no_html_of_names(warning: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["diffusers-restore", "train", "prior", "--train_data_dir", f"/home/me/{EVIL}"])
    card = model_card(
        f"{EVIL}: a prior",
        TEXT,
        EVIL,
        "what they mean",
        TrainingData(no_batches, (), f"3 pictures of {EVIL}", 3),
        f"license: '{EVIL}'",
        Progress(1, {"psnr": 1.0}, None, 1),
        training=LoopConfig(output_dir=f"/home/me/{EVIL}", license=EVIL),
        dataset=None,
        base=f"/home/me/{EVIL}",
        warning=warning,
    )
    assert rendered_html(card.text) == set()
    assert "/home/me" not in card.content
    assert ("**Warning:** it is worse." in card.text) == (warning is not None)
