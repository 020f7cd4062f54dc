"""Small drawings as inline SVG: text stays text, colours come from charts.css, no script, nothing to download.

Lengths are in SVG user units, which are CSS pixels at the drawing's natural size; y grows downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markupsafe import Markup, escape

Point = tuple[float, float]
Range = tuple[float, float]
TickText = Callable[[float], str]
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
FOLDER = Path(__file__).parent


def tag(name: str, *children: str, **attributes: object) -> Markup:
    """An element. Children and values are escaped unless they are Markup; `class_` and `text_anchor` lose their
    underscores; numbers are rounded to a tenth; attributes that are None are left out."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{written}>{inside}</{name}>") if inside else Markup(f"<{name}{written}/>")  # noqa: S704


def group(parts: Iterable[str], **attributes: object) -> Markup:
    """Several elements as one."""
    return tag("g", *parts, **attributes)


def text(content: object, x: float, y: float, class_: str | None = None, **attributes: object) -> Markup:
    """One line of text at a point."""
    return tag("text", str(content), x=x, y=y, class_=class_, **attributes)


def line(start: Point, end: Point, class_: str, **attributes: object) -> Markup:
    """A straight line."""
    return tag("line", x1=start[0], y1=start[1], x2=end[0], y2=end[1], class_=class_, **attributes)


def polyline(points: Sequence[Point], class_: str) -> Markup:
    """A line through the points, in their order."""
    return tag("polyline", points=" ".join(f"{_value(x)},{_value(y)}" for x, y in points), class_=class_)


def dots(points: Iterable[Point], class_: str) -> Markup:
    """Round dots as one path, a dozen bytes each; charts.css gives them their size."""
    return tag("path", d="".join(f"M{_value(x)} {_value(y)}h0" for x, y in points), class_=f"dots {class_}")


@dataclass(frozen=True)
class Scale:
    """Maps values from `low` to `high` onto lengths from `start` to `end`; values outside stop at the ends."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The length that stands for a value."""
        if self.log and value <= 0:
            return self.start
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, count: int = 6) -> list[float]:
        """About `count` round values within the range: powers of ten on a logarithmic scale."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            every = max(1, math.ceil((last - first + 1) / count))
            return [10.0**power for power in range(first, last + 1, every)]
        step = round_step((self.high - self.low) / count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]


def round_step(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not below `step`; 1 for 0."""
    if step <= 0 or not math.isfinite(step):
        return 1.0
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= step * (1 - 1e-9))


def padded(values: Iterable[float], *, include: Iterable[float] = (), share: float = 0.06) -> Range:
    """The range of the values with some air, so that no line is on the frame; it ends at `include` where that is
    beyond them."""
    known, fixed = list(values), list(include)
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    air = (high - low) * share or abs(high) * share or 1.0
    below, above = min(fixed, default=low), max(fixed, default=high)
    return (below if fixed and below <= low else low - air), (above if fixed and above > high else high + air)


@dataclass(frozen=True)
class Plot:
    """A drawing with two axes."""

    width: int
    height: int
    x: Scale
    y: Scale
    label: str
    """What the drawing shows, for people who hear it read."""

    @classmethod
    def of(
        cls,
        label: str,
        x: Range,
        y: Range,
        *,
        size: tuple[int, int] = (430, 250),
        margins: tuple[int, int, int, int] = (14, 14, 44, 52),
        log: bool = False,
    ) -> Plot:
        """A plot over two ranges; margins are top, right, bottom, left."""
        width, height = size
        top, right, bottom, left = margins
        return cls(
            width,
            height,
            Scale(*x, left, width - right, log),
            Scale(*y, height - bottom, top, log),
            label,
        )

    def points(self, pairs: Iterable[Point]) -> list[Point]:
        """Pairs of values as places in the drawing."""
        return [(self.x(x), self.y(y)) for x, y in pairs]

    def x_axis(self, title: str, values: Sequence[float] | None = None, words: TickText | None = None) -> Markup:
        """Ticks, their texts and the title below the plot."""
        bottom = self.y.start
        parts = [line((self.x.start, bottom), (self.x.end, bottom), "axis")]
        for value in self.x.ticks() if values is None else values:
            at = self.x(value)
            parts.append(line((at, bottom), (at, bottom + 4), "axis"))
            parts.append(text((words or plain)(value), at, bottom + 17, "tick", text_anchor="middle"))
        middle = (self.x.start + self.x.end) / 2
        parts.append(text(title, middle, bottom + 36, "axis-title", text_anchor="middle"))
        return group(parts)

    def y_axis(self, title: str, values: Sequence[float] | None = None, words: TickText | None = None) -> Markup:
        """Horizontal grid lines, their texts and the title, turned, left of the plot."""
        parts = []
        for value in self.y.ticks() if values is None else values:
            at = self.y(value)
            parts.append(line((self.x.start, at), (self.x.end, at), "grid"))
            parts.append(text((words or plain)(value), self.x.start - 7, at + 4, "tick", text_anchor="end"))
        at_x, at_y = 13, (self.y.start + self.y.end) / 2
        turned = f"rotate(-90 {at_x} {_value(at_y)})"
        parts.append(text(title, at_x, at_y, "axis-title", text_anchor="middle", transform=turned))
        return group(parts)

    def draw(self, *parts: str) -> Markup:
        """The whole drawing."""
        return picture(self.width, self.height, self.label, *parts)


def picture(width: int, height: int, label: str, *parts: str) -> Markup:
    """An SVG image that shrinks with its column and never grows above its natural size."""
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
        xmlns="http://www.w3.org/2000/svg",
    )


def plain(value: float) -> str:
    """A tick's text: few digits, thousands apart, a real minus sign."""
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return ("0" if value == 0 else shown).replace("-", "−")  # noqa: RUF001


def power_of_ten(value: float) -> str:
    """A tick's text on a logarithmic axis: 10⁻⁵."""
    return "10" + str(round(math.log10(value))).translate(_SUPERSCRIPTS)


def whole_percent(value: float) -> str:
    """A tick's text for a share: 40%."""
    return f"{100 * value:.3g}%"


def _value(value: object) -> str:
    # Adding 0.0 turns the -0.0 that rounding may leave into 0.0.
    return f"{round(value, 1) + 0.0:g}" if isinstance(value, float) else str(escape(value))


@cache
def style_sheet(name: str) -> Markup:
    """A style sheet as it goes into a <style> element. It is ours, so it is not escaped."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))  # noqa: S704
