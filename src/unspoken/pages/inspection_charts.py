"""The inspector's own charts as SVG text: heat maps of similarity. Lines and bars are those of pages/svg.py.

Colours come from the page's CSS: `c0` for alike (cosine 1), `c1` for opposed (cosine -1), the paper's own for neither.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from unspoken.core.text.markup import escape

SIDE = 268  # of a large map
_LABELS = 22  # room for the numbers beside it
_LEVELS = 10  # of each colour; cells of a level are one path, so that a page of 200 maps stays small
_WRITTEN = 8  # up to so many latents, the numbers stand in the cells


def heat_map(matrix: Sequence[Sequence[float]], *, name: str, small: bool = False) -> str:
    """Cosine similarities, latent against latent.

    Args:
        matrix: [K][K], entries from -1 to 1.
        name: what it shows, for those who do not see it.
        small: no numbers, for many of them on a page.
    """
    K = len(matrix)
    edge = (SIDE - _LABELS) / K if not small else 8.0
    room = 0 if small else _LABELS
    size = room + edge * K
    levels: dict[tuple[str, int], list[str]] = {}
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if not math.isfinite(value) or not (level := round(min(abs(value), 1.0) * _LEVELS)):
                continue
            cell = f"M{room + j * edge:.4g} {room + i * edge:.4g}h{edge:.4g}v{edge:.4g}h-{edge:.4g}z"
            levels.setdefault(("c0" if value > 0 else "c1", level), []).append(cell)
    parts = [
        f'<path class="{colour}" fill="currentColor" opacity="{level / _LEVELS:.1f}" d="{"".join(cells)}"/>'
        for (colour, level), cells in sorted(levels.items())
    ]
    parts.append(f'<rect class="edge" x="{room}" y="{room}" width="{edge * K:.4g}" height="{edge * K:.4g}"/>')
    if not small:
        every = max(1, K // 12)
        for k in range(0, K, every):
            middle = room + (k + 0.5) * edge
            parts.append(f'<text x="{middle:.1f}" y="{room - 6}" text-anchor="middle">{k + 1}</text>')
            parts.append(f'<text x="{room - 6}" y="{middle + 4:.1f}" text-anchor="end">{k + 1}</text>')
        for i, row in enumerate(matrix if K <= _WRITTEN else ()):
            for j, value in enumerate(row):
                place = f'x="{room + (j + 0.5) * edge:.1f}" y="{room + (i + 0.5) * edge + 4:.1f}"'
                kind = "cell strong" if abs(value) > 0.55 else "cell"
                parts.append(f'<text class="{kind}" {place} text-anchor="middle">{value:.2f}</text>')
    kind = "map small" if small else "map"
    return (
        f'<svg class="{kind}" viewBox="0 0 {size:.4g} {size:.4g}" role="img" aria-label="{escape(name)}">'
        f"{''.join(parts)}</svg>"
    )
