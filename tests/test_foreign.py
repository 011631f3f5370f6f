"""The JSON and YAML of others: what is deep, long or odd is refused with the reason, and fast."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diffusers_restore.errors import InvalidInputError
from diffusers_restore.foreign import parse_json, parse_yaml, read_config, read_object

DEEP = "[" * 100_000
LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 8)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_what_is_read() -> None:
    values = {"a": [1, 2.5, None, True, "x"], "b": {"c": {}}, "d": 10**299, "e": float("-inf")}
    assert parse_json(json.dumps(values), "it") == parse_yaml(json.dumps(values), "it") == values
    assert parse_yaml("a: 1e-2\nb: 2024-01-01", "it")["a"] == "1e-2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DEEP, "it must not be nested deeper than 50 levels"),
        ("[" * 60 + "]" * 60, "it must not be nested deeper than 50 levels"),
        ('{"a":' * 5000 + "1" + "}" * 5000, "it must not be nested deeper than 50 levels"),
        ("9" * 5000, "it holds a value that can't be read: Exceeds the limit"),
        ("-" + "9" * 400, "it holds a number of more than 300 digits"),
        (f"[{'1,' * 200_000}1]", "it holds more than 131,072 values"),
        (" " * 5_000_000, "it must have at most 4 MiB"),
    ],
)
def test_json_that_is_refused(text: str, message: str) -> None:
    for parse in (parse_json, parse_yaml):
        with pytest.raises(InvalidInputError) as caught:
            parse(text, "it")
        assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "it holds more than 131,072 values"),
        ("&a [*a]", "it must not be nested deeper than 50 levels"),
        ("a: &a [*a, *a]", "it must not be nested|it holds more than"),
        ("a: 2024-99-99", "it holds a value that can't be read: month must be in 1..12"),
        ("0x" + "f" * 5000, "it holds a number of more than 300 digits"),
        ("a: !!binary aGVsbG8=", "it must hold text, numbers, lists and mappings, got bytes"),
        ("a: !!python/object/apply:os.getcwd []", "it is neither YAML nor JSON"),
        ("? [1, 2]\n: 3", "it is neither YAML nor JSON"),
    ],
)
def test_yaml_that_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=f"^({message})"):
        parse_yaml(text, "it")


@pytest.mark.parametrize("content", [b"[]", b"null", b"3", b'"x"', b"", b"{", b"\xff\xfe", DEEP.encode()])
def test_a_file_that_holds_no_object(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"config\.json' (must|is no JSON)"):
        read_object(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_train_timesteps": 10**10}, "num_train_timesteps must be a number up to 1000000, got 1e[+]10"),
        ({"block_out_channels": [8, 10**7]}, "block_out_channels must be"),
        ({"degradation": {"num_timesteps": 1e12}}, "num_timesteps must be"),
        ({"layers_per_block": 5000}, "layers_per_block must be a number up to 1000, got 5000"),
    ],
)
def test_absurd_numbers_of_a_component(config: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInputError, match=rf"config\.json': {message}"):
        read_config(tmp_path / "config.json")


def test_usual_numbers_of_a_component(tmp_path: Path) -> None:
    config = {"seed": 2**32 - 1, "lambda_min_clipped": float("-inf"), "sigma_max": 1348.0, "layers_per_block": [3, 2]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_config(tmp_path / "config.json") == config
