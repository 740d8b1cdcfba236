"""Drawings of the report, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

from iseg_tvm.reporting.statistics import SiteStatistics


def histogram(site: SiteStatistics) -> str:
    """Values before (filled) and after (line), heights in logarithms so that tails show."""
    width, height = 150, 34
    step = width / len(site.before)
    peak = math.log1p(max(site.before.max(), site.after.max(), 1.0))
    bars = "".join(
        f'<rect class="before" x="{i * step:.1f}" y="{height - h:.1f}" width="{step:.1f}" '
        f'height="{h:.1f}"/>'
        for i, h in enumerate(np.log1p(site.before) / peak * height)
        if h > 0
    )
    points = []
    for i, h in enumerate(np.log1p(site.after) / peak * height):
        points += [f"{i * step:.1f},{height - h:.1f}", f"{(i + 1) * step:.1f},{height - h:.1f}"]
    label = f"values from {-site.limit:.3g} to {site.limit:.3g}"
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="{label}">'
        f"<title>{label}</title>{bars}"
        f'<polyline class="after" points="{" ".join(points)}"/></svg>'
    )


def bars(rows: Sequence[tuple[str, float]], unit: str) -> str:
    """Horizontal bars, longest first: (name, value)."""
    row, left, width = 24, 260, 420
    longest = max(value for _, value in rows) or 1.0
    parts = []
    for i, (name, value) in enumerate(rows):
        y, length = i * row, value / longest * width
        parts.append(
            f'<text class="name" x="{left - 8}" y="{y + 16}" text-anchor="end">'
            f"{escape(name)}</text>"
            f'<rect class="bar" x="{left}" y="{y + 5}" width="{length:.1f}" height="14" rx="2"/>'
            f'<text x="{left + length + 6:.1f}" y="{y + 16}">{value:.1f} {unit}</text>'
        )
    total = left + width + 90
    return (
        f'<svg width="{total}" height="{len(rows) * row + 4}" viewBox="0 0 {total} '
        f'{len(rows) * row + 4}" role="img">{"".join(parts)}</svg>'
    )


def depth_line(sites: Sequence[SiteStatistics]) -> str:
    """Signal to noise along the residual stream."""
    width, height, left, bottom = 760, 190, 44, 40
    values = [s.snr for s in sites]
    finite = [v for v in values if math.isfinite(v)] or [0.0]
    low, high = math.floor(min(finite) / 5) * 5, math.ceil((max(finite) + 0.1) / 5) * 5
    step = (width - left - 20) / max(len(sites) - 1, 1)

    def y(value: float) -> float:
        return 10 + (high - min(value, high)) / (high - low) * (height - bottom - 10)

    lines = "".join(
        f'<line class="grid" x1="{left}" x2="{width - 10}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="{left - 6}" y="{y(v) + 4:.1f}" text-anchor="end">{v}</text>'
        for v in range(low, high + 1, 5)
    )
    dots = [(left + i * step, y(v)) for i, v in enumerate(values)]
    drawn = "".join(
        f'<circle class="dot" cx="{x:.1f}" cy="{h:.1f}" r="3.5"><title>{escape(s.site)}: '
        f"{s.snr:.1f} dB</title></circle>"
        for (x, h), s in zip(dots, sites, strict=True)
    )
    every = max(1, len(sites) // 12)
    names = "".join(
        f'<text x="{dots[i][0]:.1f}" y="{height - 20 + 14 * (i // every % 2)}" '
        f'text-anchor="{"middle" if i else "start"}">{escape(short_name(s.site))}</text>'
        for i, s in enumerate(sites)
        if i % every == 0
    )
    path = " ".join(f"{x:.1f},{h:.1f}" for x, h in dots)
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">{lines}'
        f'<polyline class="all" points="{path}"/>{drawn}{names}</svg>'
    )


def short_name(site: str) -> str:
    """``encoder.blocks.3.mid`` as ``E3 mid``, ``encoder.patch_embed`` as ``E in``."""
    stack, *middle, last = site.split(".")
    number = middle[-1] if middle else ""
    last = "in" if last in ("patch_embed", "proj_dec") else last
    return f"{stack[0].upper()}{number} {last}".strip()
