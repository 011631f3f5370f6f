"""The comparison with other libraries, as far as it goes without them: clock, exact references, sentences, page."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def peers() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("script_peers", ROOT / "benchmarks" / "peers.py")
    assert spec is not None
    assert spec.loader is not None
    sys.path.insert(0, str(ROOT / "benchmarks"))  # as for any script
    before = set(sys.modules)
    try:
        sys.modules["script_peers"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
        for name in {"script_peers", "methods", "quality"} - before:
            sys.modules.pop(name, None)


class Network(torch.nn.Module):
    def forward(self, x: torch.Tensor, timestep: int, return_dict: bool = True) -> tuple[torch.Tensor]:
        return (torch.nn.functional.avg_pool2d(x.cos(), 3, stride=1, padding=1),)


def test_the_clock_counts_a_network_alone_and_changes_nothing(peers: Any) -> None:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    network = Network()
    (expected,) = torch.autograd.grad(network(x, 0)[0].square().sum(), x)
    clock = peers.Clock(network)

    def call() -> torch.Tensor:
        with torch.no_grad():
            network(x, 0)
        outside = x.detach().clone()
        for _ in range(50):
            outside = outside.cos()
        return torch.autograd.grad(network(2 * x / 2, 0, return_dict=False)[0].square().sum(), x)[0]

    gradient, turn = clock.time(call)
    torch.testing.assert_close(gradient, expected)
    assert turn["evaluations"] == 2
    assert 0 < turn["outside"] < turn["s"]


@pytest.mark.parametrize("method", ["ddrm", "diffpir", "mmps"])
def test_our_chains_have_the_moments_of_the_closed_form(peers: Any, method: str) -> None:
    g, sigma_y, case = 0.5, 0.1, "measured, r = g / 5"
    scheduler = peers.METHODS[method]()
    levels = sys.modules["methods"].karras_levels(20.0, 0.02, 5)
    timesteps = scheduler.nearest_timesteps(levels)
    chain = peers.OursExact(g, lambda x, sigma: None, timesteps)
    measurement = peers.Measurement(torch.ones(1, 1, 1, 20_000), peers.Scalar([1.0] * 20_000), sigma_y)
    x = chain.ready(method, peers.Problem(measurement, sigma_y, 5))().double().flatten()
    centre, sd = peers.posterior(1.0, 1.0, g, sigma_y)
    (closed,) = (row[case] for row in peers.gaussian(5) if row["method"] == method)
    error, ratio = map(float, closed.split(" / "))
    assert (float(x.mean()) - centre) / sd == pytest.approx(error, abs=0.03)
    assert float(x.var()) / sd**2 == pytest.approx(ratio, rel=0.05)


def test_moments_against_the_posterior(peers: Any) -> None:
    assert peers.posterior(0.0) == pytest.approx((0.0, peers.G))
    centre, sd = peers.posterior(1.0)  # r = g / 5
    assert (centre, sd) == pytest.approx((peers.Y_BAR * 25 / 26, peers.G / 26**0.5))
    x = centre + sd * torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    error, its_error, ratio, ratios_error = peers.gaussian_errors(x, 1.0)
    assert abs(error) < 4 * its_error < 0.02
    assert abs(ratio - 1) < 4 * ratios_error < 0.02
    assert peers.distance([0.0, 0.1, 1.0, 0.1]) == 0
    assert peers.distance([3.0, 0.1, 25.0, 0.1]) == pytest.approx(5)


def test_injected_noise_is_held_against_the_rule_of_its_case(peers: Any) -> None:
    z = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = z / z.std()
    r = peers.SIGMA_Y
    missing = [(z, 1.0), (0.5**0.5 * z * 0.5, 0.5)]
    assert peers.injected(missing, "ddrm", 0.0) == pytest.approx({"not measured": 0.5})
    measured = [(z, 1.0), ((0.5**2 - r**2) ** 0.5 * z, 0.5), (0.85 * r / 2 * z, r / 2), (z, 0.0)]
    expected = {"noisier than y": 1.0, "less noisy than y": 1.0}
    assert peers.injected(measured, "ddrm", 1.0) == pytest.approx(expected)
    assert set(peers.injected(measured, "ddrm", None)) == {f"{rule}, Fourier basis" for rule in expected}
    assert peers.injected([(z, 1.0), (z * 0.5, 0.5)], "diffpir", 1.0) == pytest.approx({"measured": 1.0})


def row(peers: Any, ours: dict[str, float], theirs: dict[str, float], **more: Any) -> dict[str, Any]:
    turn = {"s": 2.0, "outside": 0.02, "evaluations": 20, "PSNR": 30.0, "misfit": 0.0}
    known = {"task": next(iter(peers.TASKS)), "peer": "deepinv", "method": "ddrm", "note": ""}
    return {**known, **peers.summary([{**turn, **ours}] * 3, [{**turn, **theirs}] * 3, 0.0), **more}


def test_a_row_is_made_of_its_turns(peers: Any) -> None:
    made = row(peers, {"s": 1.0, "outside": 0.01, "evaluations": 10}, {})
    assert made["ratio"] == [0.5, 0.5, 0.5]
    assert made["overhead"] == pytest.approx([1.0, 1.0])
    assert made["outside"] == pytest.approx([0.01, 0.01])
    assert (made["evaluations"], made["PSNR"]) == ([10, 20], [30.0, 30.0])


def test_sentences_follow_the_figures(peers: Any) -> None:
    fast, slow = row(peers, {"outside": 0.006}, {}), row(peers, {"s": 3.0, "outside": 1.0}, {"PSNR": 31.0})
    needed = [{"method": "ddrm", "ours": 10.0, "deepinv": 20.0}]
    said = peers.figures_say([fast, slow], needed)
    assert "at most a third of deepinv's in 1 of 2 rows" in said[0]
    assert any("Memory: ours needs 0.50 of deepinv's" in one for one in said)
    assert not any("azula" in one for one in said)
    exact = [
        {"method": "ddrm", "library": name, **dict.fromkeys(peers.CASES, (0.0, 0.0, ratio, 0.0))}
        for name, ratio in (("ours", 1.0), ("deepinv", 0.5))
    ]
    assert peers.peers_better([fast], needed, exact) == []
    better = peers.peers_better([fast, slow], [{"method": "ddrm", "ours": 30.0, "deepinv": 20.0}], exact[::-1])
    assert [one.split(":")[0] for one in better] == [
        *("A higher PSNR", "Less time", "Less time outside the network", "Less memory"),
    ]
    assert "deepinv's ddrm, denoising 0.2: 31.00 dB against 30.00" in better[0]
    exact = [
        {**one, **dict.fromkeys(peers.CASES, (0.0, 0.0, 1.5 - one[next(iter(peers.CASES))][2], 0.0))} for one in exact
    ]
    assert "deepinv's ddrm, not measured: +0.00 / 1.000 against +0.00 / 0.500" in peers.peers_better([], [], exact)[0]


def test_faults_are_said_of_every_library(peers: Any) -> None:
    fine, off = row(peers, {}, {}), row(peers, {"misfit": 0.5}, {}, **{"deepinv remark": "can't: no"})
    operators = [{"task": "t", "library": "azula", "adjoint": 0.1}, {"task": "t", "library": "ours", "V": 1e-7}]
    noise = [
        {"library": "deepinv", "method": "ddrm", "rule": "not measured", "ratio": ratio, "standard error": 0.006}
        for ratio in (0.5, 1.01)
    ]
    assert peers.faults([fine], [], []) == []
    assert peers.faults([off], operators, noise) == [
        "ours, ddrm, denoising 0.2: y is exact, but A x - y is 0.5000.",
        "deepinv, ddrm, denoising 0.2: can't: no.",
        "azula, t: adjoint is wrong by 1.0e-01.",
        "deepinv's ddrm, not measured: the states have 0.500 of the noise variance that the paper's rule gives.",
    ]


def test_the_page_has_every_task_and_what_could_not_run(peers: Any) -> None:
    refused = {"task": list(peers.TASKS)[1], "peer": "azula", "method": "dps", "note": "", "azula remark": "can't: no"}
    data: dict[str, Any] = {"rows": [row(peers, {}, {"s": 4.0}), refused], "memory": [{"method": "dps", "ours": 1.0}]}
    data |= {"operators": [], "noise": [], "closed form": [{"method": "ddrm", **dict.fromkeys(peers.CASES, "0 / 1")}]}
    data["gaussian"] = [{"method": "ddrm", "library": "ours", **dict.fromkeys(peers.CASES, (0.0, 0.01, 1.0, 0.02))}]
    page = peers.to_markdown({"pictures": "4 of 64 px", "steps": 20, "coefficients": 9}, data)
    assert "| deepinv | ddrm |  | 20 / 20 | 2.00 / 4.00 | 0.50 (0.50 to 0.50) | 1.0% / 0.5% |" in page
    assert "can't: no |" in page
    assert all(f"## {task[0].upper()}{task[1:]}" in page for task in peers.TASKS)
    assert "+0.00 ± 0.01 / 1.000 ± 0.020" in page


def test_the_environment_is_made_once_and_not_in_a_circle(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []

    def run(command: list[Any], check: bool) -> subprocess.CompletedProcess[str]:
        ran.append([str(word) for word in command])
        tmp_path.mkdir(exist_ok=True)
        return subprocess.CompletedProcess(command, 0 if check else 3)

    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(peers.subprocess, "run", run)
    monkeypatch.setattr(peers, "VENV", tmp_path)
    for expected in (3, 1):
        ran.clear()
        with pytest.raises(SystemExit) as stopped:
            peers.enter_environment(["--quick"])
        assert stopped.value.code == 3
        assert len(ran) == expected
        assert ran[-1][-1] == "--quick"
    monkeypatch.setattr(peers.sys, "prefix", str(tmp_path))
    with pytest.raises(SystemExit, match="remove it"):
        peers.enter_environment([])


def test_the_requirements_are_pinned_as_ours_are() -> None:
    lines = (ROOT / "benchmarks" / "peers-requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    ours = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    assert {"azula", "deepinv", "torch", "torchvision"} <= pins.keys()
    common = pins.keys() & ours.keys()
    assert {name: pins[name] for name in common} == {name: ours[name] for name in common}
    assert "torch" in common


@pytest.mark.skipif(
    importlib.util.find_spec("deepinv") is None, reason="deepinv lives in the environment that the script makes"
)
def test_their_operators_are_ours(peers: Any) -> None:
    assert max(row["A - ours"] for row in peers.operator_rows(32)) < 1e-5
