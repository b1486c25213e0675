"""The figures as a picture: one bar a shape, as long as instar's time is of qemu-img's, on a logarithmic scale."""
import html
import math

WIDTH, LEFT, RIGHT, ROW, TOP, BOTTOM = 900, 340, 110, 26, 54, 46
SHORTEST, LONGEST = 0.01, 4.0


def draw(title, figures):
    """An SVG document. Every figure has `name`, `title`, `ratio`, `ours_s` and `theirs_s`."""
    height = TOP + ROW * len(figures) + BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        f"<title>{html.escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="24" font-size="15" fill="#1b1b1b">{html.escape(title)}</text>',
    ]
    bottom = TOP + ROW * len(figures)
    for mark in (0.01, 0.03, 0.1, 0.3, 1, 3):
        x = place(mark)
        colour, dash = ("#8a2b2b", "") if mark == 1 else ("#c8c8c8", ' stroke-dasharray="2 3"')
        parts.append(f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{bottom}" stroke="{colour}"{dash}/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle" fill="#555555">{mark:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle" fill="#555555">time of instar / time of qemu-img</text>')
    for row, figure in enumerate(figures):
        y, ratio = TOP + ROW * row, figure["ratio"]
        colour = "#2f6f9f" if ratio <= 1 else "#b5651d"
        label = html.escape(f"{figure['name']}: {figure['title']}")
        times = f"{figure['ours_s']:.3f} s of {figure['theirs_s']:.3f} s"
        parts.append(f'<text x="{LEFT - 8}" y="{y + 16}" text-anchor="end" fill="#1b1b1b">{label[:58]}</text>')
        parts.append(
            f'<rect x="{LEFT}" y="{y + 4}" width="{max(place(ratio) - LEFT, 1):.1f}" height="{ROW - 8}" fill="{colour}">'
            f"<title>{times}</title></rect>"
        )
        parts.append(f'<text x="{place(ratio) + 6:.1f}" y="{y + 16}" fill="#1b1b1b">{ratio:.2f}</text>')
    parts.append("</svg>")
    return "\n".join(parts) + "\n"


def place(ratio):
    """Where a ratio lies from the left, in pixels."""
    clipped = min(max(ratio, SHORTEST), LONGEST)
    share = math.log(clipped / SHORTEST) / math.log(LONGEST / SHORTEST)
    return LEFT + share * (WIDTH - LEFT - RIGHT)
