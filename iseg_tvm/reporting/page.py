"""The report's page: one HTML file that needs nothing else, no network and no other file."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files

import numpy as np
from PIL import Image

from iseg_tvm import __version__
from iseg_tvm.artifact import QuantizedModel
from iseg_tvm.palettes import generic_palette
from iseg_tvm.reporting import charts
from iseg_tvm.reporting.statistics import Findings, Picture, SiteStatistics

_LISTED = 10  # operators in the chart of the worst
_POOR = 30.0  # dB: an error of 3 % of the signal
_DIFFERENT = (220, 38, 38)


def render(findings: Findings, model: QuantizedModel, title: str) -> str:
    """Write the page.

    Parameters
    ----------
    findings : Findings
    model : the integer model: its classes and colours
    title : what the page is about, plain text
    """
    text = {
        "title": escape(title),
        "css": _resource("report.css"),
        "js": _resource("report.js"),
        "tiles": _tiles(findings),
        "worst": _worst(findings.sites),
        "depth": charts.depth_line(_stream(findings.sites)),
        "pictures": "".join(_picture(p, model) for p in findings.pictures),
        "rows": "".join(_row(s) for s in findings.sites),
        "version": escape(__version__),
        "head": "".join(
            f'<th scope="col"><button type="button">{name}</button></th>'
            for name in (*_COLUMNS, "before and after")
        ),
    }
    return _PAGE.format_map(text)


_COLUMNS = ("tensor", "type", "own loss, dB", "signal to noise, dB", "saturated", "range used")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
{css}</style></head><body>
<h1>{title}</h1>
<p>The float checkpoint and the integer model, tensor by tensor, on the same pictures.</p>
<div class="tiles">{tiles}</div>
<h2>Operators that lose most</h2>
<p>Noise of one operator alone, given the float model's tensors: percent of the signal's root mean
square. Longer is worse.</p>
<div class="card">{worst}</div>
<h2>Signal to noise along the residual stream, dB</h2>
<p>All errors up to that point together. 30 dB is an error of 3 %, 40 dB of 1 %.</p>
<div class="card">{depth}</div>
<h2>Pictures</h2>
{pictures}
<h2>All tensors</h2>
<p>Own loss: the operator alone, as above. Saturated: float values that the integer grid cannot
hold. Range used: largest integer over the largest possible. Histograms: float values filled,
integer values as a line, logarithmic heights. Press a heading to sort.</p>
<div class="card"><table><thead><tr>{head}</tr></thead><tbody>
{rows}</tbody></table></div>
<p class="note">iseg-tvm {version}</p>
<script>
{js}</script></body></html>
"""


def _resource(name: str) -> str:
    return (files("iseg_tvm") / "data" / name).read_text(encoding="utf-8")


def _tiles(findings: Findings) -> str:
    agreement = float(np.mean([p.agreement for p in findings.pictures]))
    tiles = (
        (f"{100 * agreement:.2f} %", "pixels of the same class"),
        (f"{100 * findings.mean_iou:.1f} %", "mean IoU with the float maps"),
        (f"{findings.cosine:.4f}", "cosine of the encoder's features"),
        (str(len(findings.pictures)), "pictures"),
        (str(len(findings.sites)), "tensors compared"),
    )
    return "".join(f'<div class="tile"><b>{a}</b><span>{b}</span></div>' for a, b in tiles)


def _worst(sites: Sequence[SiteStatistics]) -> str:
    known = [s for s in sites if math.isfinite(s.own_snr)]
    ranked = sorted(known, key=lambda s: s.own_snr)[:_LISTED]
    return charts.bars([(s.site, 100 * 10 ** (-s.own_snr / 20)) for s in ranked], "%")


def _stream(sites: Sequence[SiteStatistics]) -> list[SiteStatistics]:
    """The residual stream, and where it begins."""
    ends = ("patch_embed", "proj_dec", "mid", "out")
    return [s for s in sites if s.site.rpartition(".")[2] in ends]


def _row(site: SiteStatistics) -> str:
    cells = [
        _cell(escape(site.site), site.site),
        _cell(site.dtype, site.dtype),
        _cell(_db(site.own_snr), _key(site.own_snr), bad=site.own_snr < _POOR),
        _cell(_db(site.snr), _key(site.snr)),
        _cell(f"{100 * site.saturated / site.values:.3f} %", _key(site.saturated / site.values)),
        _cell(f"{100 * site.reach:.0f} %", _key(site.reach)),
        f'<td data-key="{_key(site.limit)}">{charts.histogram(site)}</td>',
    ]
    return f"<tr>{''.join(cells)}</tr>\n"


def _cell(text: str, key: str, *, bad: bool = False) -> str:
    mark = ' class="bad"' if bad else ""
    return f'<td data-key="{escape(key)}"{mark}>{text}</td>'


def _key(value: float) -> str:
    """What a column is sorted by; empty where there is no figure."""
    if math.isnan(value):
        return ""
    return f"{min(value, 1e9):.6g}"


def _db(value: float) -> str:
    if math.isnan(value):
        return "no signal"
    return "exact" if math.isinf(value) else f"{value:.1f}"


def _picture(picture: Picture, model: QuantizedModel) -> str:
    """Photo, both maps and their difference, with the classes that occur."""
    generic = generic_palette(model.config.num_classes)
    colors = model.palette or generic.colors
    names = model.classes or generic.classes
    grey = Image.fromarray(picture.image).convert("L").point(lambda v: 128 + v // 3).convert("RGB")
    difference = np.array(grey)
    difference[picture.exact != picture.integer] = _DIFFERENT
    changed = 100 * (1 - picture.agreement)
    shown = (
        (_jpeg(picture.image), "picture"),
        (_map(picture.exact, colors), "float"),
        (_map(picture.integer, colors), "integers"),
        (_png(Image.fromarray(difference)), f"difference: {changed:.2f} % of the pixels"),
    )
    figures = "".join(
        f'<figure><img src="{source}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
        for source, caption in shown
    )
    present = np.union1d(picture.exact, picture.integer)
    legend = "".join(
        f'<span><i style="background:rgb{tuple(colors[int(i)])}"></i>{escape(names[int(i)])}</span>'
        for i in present
    )
    return (
        f'<div class="card" style="margin-bottom:.75rem"><p><b>{escape(picture.name)}</b></p>'
        f'<div class="masks">{figures}</div><div class="legend">{legend}</div></div>'
    )


def _map(class_map: np.ndarray, colors: Sequence[tuple[int, int, int]]) -> str:
    image = Image.fromarray(class_map)
    image.putpalette([value for color in colors for value in color])
    return _png(image)


def _png(image: Image.Image) -> str:
    return _data_uri(image, "PNG")


def _jpeg(image: np.ndarray) -> str:
    return _data_uri(Image.fromarray(image), "JPEG")


def _data_uri(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f"data:image/{kind.lower()};base64,{data}"
