"""Small SVG pictures, as the images in Markdown that an asset's page shows.

The page shows Markdown of less than 1,000 characters where it stands, and longer one behind a link.
So the SVG is as short as it can be: a path for all bars of one colour, texts, nothing else.
"""

from html import escape
from urllib.parse import quote

import dagster as dg

__all__ = ["Picture", "shortened"]

# What may stand as it is in a destination of Markdown that is between angle brackets. Not the
# ampersand: what begins with it would be read as a character there already.
_PLAIN = " '=/:;,.()-_+*"


class Picture:
    """A picture of bars and texts, some KB at most.

    >>> made = Picture(100, 20)
    >>> made.bar((10, 2, 50, 16), "#2f7d4f")
    >>> made.text(2, 14, "a < b")
    >>> "M10 10h50" in made.svg(), "a &lt; b" in made.svg()
    (True, True)
    """

    def __init__(self, width: int, height: int) -> None:
        """Begin with a white picture of so many pixels, which reads on dark pages too."""
        self._size = (width, height)
        self._bars: dict[tuple[str, int], list[str]] = {}
        self._texts: list[str] = []

    def bar(self, box: tuple[float, float, float, float], colour: str) -> None:
        """Draw a bar at left, top, width, height."""
        x, y, width, height = (round(number) for number in box)
        line = f"M{x} {y + height // 2}h{max(width, 1)}"
        self._bars.setdefault((colour, height), []).append(line)

    def text(self, x: float, y: float, text: str) -> None:
        """Write a text whose left end is at a point."""
        shown = escape("".join(char for char in text if char.isprintable()), quote=False)
        self._texts.append(f"<text x='{x:.0f}' y='{y:.0f}'>{shown}</text>")

    def svg(self) -> str:
        """Give the SVG."""
        width, height = self._size
        bars = "".join(
            f"<path d='{''.join(lines)}' stroke='{colour}' stroke-width='{thick}'/>"
            for (colour, thick), lines in self._bars.items()
        )
        return (
            f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' "
            f"style='background:#fff;font:11px sans-serif'>{bars}{''.join(self._texts)}</svg>"
        )

    def markdown(self, name: str) -> dg.MetadataValue:
        """Give the picture as Markdown: the UI shows images of data URIs, and no SVG as it is."""
        data = quote(self.svg(), safe=_PLAIN)
        return dg.MetadataValue.md(f"![{name}](<data:image/svg+xml,{data}>)")


def shortened(text: str, most: int) -> str:
    """Cut a long text.

    >>> shortened("a_very_long_name", 8)
    'a_very_…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"
