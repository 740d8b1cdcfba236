"""The report: its figures against a computation by hand, and the page in a real browser."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from iseg_tvm.artifact import QuantizedModel, load_model, save_model
from iseg_tvm.cli.main import main
from iseg_tvm.models.checkpoint import load_checkpoint, save_checkpoint
from iseg_tvm.models.segmenter import Segmenter
from iseg_tvm.quantization import quantize
from iseg_tvm.quantization.activation import per_unit
from iseg_tvm.quantization.context import finite_parameters
from iseg_tvm.quantization.equivalence import equivalent, real_features, recorded
from iseg_tvm.quantization.grids import recover_grids
from iseg_tvm.reference_model import reference_graph
from iseg_tvm.reporting.statistics import Findings, decibels, examine
from iseg_tvm.reporting.trace import trace_integers
from tests.arm.userspace import PreparationError
from tests.chromium import Browser, find_browser
from tests.helpers import random_image, tiny_config
from tests.unit.test_quantization import lively_model

SIZE = (16, 24)
NAMES = ("sky <b>", *"bcdefg")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, the integer model made from it, and two pictures."""
    folder = tmp_path_factory.mktemp("report")
    model = lively_model(tiny_config(embed_dim=48, image_size=SIZE))
    save_checkpoint(model, folder / "checkpoint")
    quantized = quantize(model, [random_image(*SIZE, 5)], classes=NAMES)
    save_model(quantized, folder / "model.safetensors")
    (folder / "pictures").mkdir()
    for index in range(2):
        Image.fromarray(random_image(*SIZE, index)).save(folder / f"pictures/{index}.png")
    return folder


@pytest.fixture(scope="module")
def models(folder: Path) -> tuple[Segmenter, QuantizedModel]:
    return load_checkpoint(folder / "checkpoint"), load_model(folder / "model.safetensors")


@pytest.fixture(scope="module")
def findings(models: tuple[Segmenter, QuantizedModel]) -> Findings:
    pictures = [(str(index), random_image(*SIZE, index)) for index in range(2)]
    return examine(*models, pictures)


def test_grids_are_found_again(models: tuple[Segmenter, QuantizedModel]) -> None:
    """The one scale that conversion writes down, and the activations' two, are recovered."""
    model, quantized = models
    grids = recover_grids(
        quantized, finite_parameters(equivalent(model, recorded(quantized)))
    )
    exact = np.ravel(quantized.provenance["feature_scale"])
    np.testing.assert_allclose(np.ravel(grids.scale["encoder.norm"]), exact, rtol=1e-3)
    for block, (fc1, activation, _) in quantized.provenance["activation_scales"].items():
        for site, exact in ((f"{block}.fc1", fc1), (f"{block}.activation", activation)):
            expected = per_unit(np.array(exact), len(grids.scale[site]))
            np.testing.assert_allclose(grids.scale[site], expected, rtol=1e-2)


def test_tracing_does_not_change_the_model(models: tuple[Segmenter, QuantizedModel]) -> None:
    _, quantized = models
    image = random_image(*SIZE, 3)
    values, class_map = trace_integers(quantized, image, {})
    graph = reference_graph(quantized)
    np.testing.assert_array_equal(values["encoder.norm"].numpy(), graph.encode(image))
    np.testing.assert_array_equal(class_map, graph.run(image))
    forced = {"encoder.norm": torch.zeros_like(values["encoder.norm"])}
    other, _ = trace_integers(quantized, image, forced)
    assert torch.equal(other["encoder.norm"], values["encoder.norm"])
    assert not torch.equal(other["decoder.proj_dec"], values["decoder.proj_dec"])


def test_figures(models: tuple[Segmenter, QuantizedModel], findings: Findings) -> None:
    sites = {site.site: site for site in findings.sites}
    # Ten a block (norms, layers, attention, activation, two sums), seven around them.
    assert len(sites) == 3 * 10 + 7
    features = sites["encoder.norm"]
    found, exact = [], []
    model, quantized = models
    center = recorded(quantized).centers["encoder.norm"]
    for index in range(2):
        image = random_image(*SIZE, index)
        found.append(real_features(quantized, reference_graph(quantized).encode(image)))
        with torch.no_grad():
            tokens = model.encoder.forward_features(model.normalize_uint8(image[None]))
        exact.append(tokens[0].numpy())
    noise = np.square(np.array(found) - np.array(exact)).sum()
    signal = np.square(np.array(exact) - center).sum()
    assert features.snr == pytest.approx(decibels(signal, noise), abs=0.1)
    assert features.values == np.size(exact)
    assert features.before.sum() == features.after.sum() == features.values
    for site in findings.sites:
        assert 0 < site.reach <= 1
        assert site.saturated <= 0.05 * site.values
        assert site.own_snr > 20
    # What an operator adds alone is less than what has added up before it and in it.
    deep = [s for s in findings.sites if s.site.startswith("decoder.blocks")]
    assert np.mean([s.own_snr - s.snr for s in deep]) > 1


def test_decibels() -> None:
    assert decibels(100.0, 1.0) == pytest.approx(20)
    assert decibels(1.0, 0.0) == float("inf")
    assert np.isnan(decibels(0.0, 1.0))


def report(folder: Path, *more: object) -> int:
    flags = ["--checkpoint", folder / "checkpoint", "--model", folder / "model.safetensors"]
    return main(["report", *map(str, (*flags, "--images", folder / "pictures", *more))])


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    path = folder / "report.html"
    assert report(folder, "-o", path, "-q") == 0
    return path


def test_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r'(?:src|href)="(?!data:)', text)
    assert "sky &lt;b&gt;" in text
    assert "<b>sky" not in text
    assert "prefers-color-scheme: dark" in text


@pytest.fixture(scope="module")
def browser() -> Browser:
    try:
        return find_browser()
    except PreparationError as error:
        pytest.skip(f"no browser can be had here: {error}")


_PROBE = """<script>
const errors = [];
window.addEventListener("error", (event) => errors.push(String(event.message)));
</script>"""
_CHECK = """<script>
const column = (i) => [...document.querySelectorAll("tbody tr")].map((r) => r.cells[i].innerText);
const press = (i) => document.querySelectorAll("th button")[i].click();
const first = column(0);
press(2); const up = column(2); press(2); const down = column(2); press(0);
window.addEventListener("load", () => {
  const result = { errors, first, up, down, names: column(0),
    images: [...document.images].map((i) => [i.naturalWidth, i.naturalHeight]),
    drawings: [...document.querySelectorAll("svg")].map((s) => s.getBoundingClientRect().width),
    wide: document.scrollingElement.scrollWidth - innerWidth,
    ground: getComputedStyle(document.body).backgroundColor };
  const out = document.createElement("pre"); out.id = "result";
  out.textContent = JSON.stringify(result); document.body.append(out);
});
</script>"""


def probed(page: Path, browser: Browser, *flags: str) -> dict[str, list]:
    """What scripts see in the page, after pressing headings."""
    text = page.read_text(encoding="utf-8").replace("<title>", _PROBE + "<title>", 1)
    copy = page.with_name("probed.html")
    copy.write_text(text.replace("</body>", _CHECK + "</body>"), encoding="utf-8")
    found = browser.run(copy, "--dump-dom", *flags)
    return json.loads(unescape(re.search(r'<pre id="result">(.*?)</pre>', found, re.S)[1]))


def test_page_in_a_browser(page: Path, browser: Browser, findings: Findings) -> None:
    seen = probed(page, browser, "--window-size=1280,900")
    assert seen["errors"] == []
    assert seen["first"] == [site.site for site in findings.sites]
    values = [float(v) for v in seen["up"]]
    assert values == sorted(values)
    assert [float(v) for v in seen["down"]] == values[::-1]
    assert seen["names"] == sorted(seen["first"])
    assert seen["images"] == [[SIZE[1], SIZE[0]]] * 8
    assert all(width > 50 for width in seen["drawings"])
    assert seen["wide"] <= 0
    dark = probed(page, browser, "--force-dark-mode", "--window-size=420,900")
    assert dark["wide"] <= 0
    light, shade = (sum(map(int, re.findall(r"\d+", s["ground"]))) for s in (seen, dark))
    assert light > 600
    assert shade < 150


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--images", "nowhere.png"), "nowhere.png does not exist"),
        (("--model", "{folder}/pictures/0.png"), "damaged or not a safetensors file"),
        (("--checkpoint", "{folder}/other"), "another checkpoint's architecture"),
    ],
)
def test_bad_requests(
    folder: Path, flags: tuple[str, str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(lively_model(tiny_config(image_size=SIZE)), folder / "other")
    given = [flag.format(folder=folder) for flag in flags]
    assert report(folder, "-o", folder / "no.html", "-q", *given) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert reason in captured.err.splitlines()[0]
    assert captured.err.splitlines()[1].startswith("hint: ")
    assert not (folder / "no.html").exists()
