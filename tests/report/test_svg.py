"""Drawings: where values land, which ticks are chosen, and that text cannot become markup."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from lorapar.report.svg import Plot, Scale, dots, padded, plain, polyline, power_of_ten, round_step, tag, text

NUMBERS = st.floats(-1e6, 1e6)


def test_a_linear_scale_maps_its_ends_and_its_middle() -> None:
    scale = Scale(0.0, 10.0, 100.0, 200.0)
    assert [scale(value) for value in (0, 5, 10)] == [100.0, 150.0, 200.0]


def test_values_outside_a_scale_stop_at_its_ends() -> None:
    scale = Scale(0.0, 1.0, 50.0, 10.0)
    assert (scale(-3), scale(7)) == (50.0, 10.0)


def test_a_logarithmic_scale_gives_every_decade_the_same_length() -> None:
    scale = Scale(1e-6, 1e-2, 0.0, 400.0, log=True)
    assert scale(1e-5) == pytest.approx(100.0)
    assert scale(1e-3) == pytest.approx(300.0)
    assert scale(0.0) == 0.0


@given(NUMBERS, NUMBERS, NUMBERS)
def test_scales_never_leave_their_lengths(low: float, high: float, value: float) -> None:
    low, high = min(low, high), max(low, high)
    assert 10.0 <= Scale(low, high, 10.0, 90.0)(value) <= 90.0


@given(NUMBERS, st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_inside(low: float, span: float) -> None:
    ticks = Scale(low, low + span, 0.0, 1.0).ticks()
    assert 1 <= len(ticks) <= 7
    assert all(low - span * 1e-6 <= tick <= low + span * (1 + 1e-6) for tick in ticks)


def test_ticks_of_a_logarithmic_scale_are_powers_of_ten() -> None:
    assert Scale(1e-4, 1e-1, 0.0, 1.0, log=True).ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1])


@pytest.mark.parametrize(("step", "rounded"), [(0.3, 0.5), (0.11, 0.2), (7.0, 10.0), (2.0, 2.0), (0.0, 1.0)])
def test_steps_are_one_two_or_five(step: float, rounded: float) -> None:
    assert round_step(step) == pytest.approx(rounded)


def test_padding_leaves_air_and_keeps_what_must_be_in() -> None:
    low, high = padded([2.0, 4.0], include=(0.0,))
    assert low == 0.0
    assert high > 4.0
    assert padded([3.0, 3.0])[0] < 3.0 < padded([3.0, 3.0])[1]


def test_text_and_attributes_are_escaped() -> None:
    assert text('<b>&"', 0.0, 0.0) == Markup('<text x="0" y="0">&lt;b&gt;&amp;&#34;</text>')
    assert tag("rect", class_='"><script>') == Markup('<rect class="&#34;&gt;&lt;script&gt;"/>')


def test_numbers_are_rounded_to_a_tenth_and_absent_attributes_left_out() -> None:
    assert polyline([(1.26, -0.04), (math.pi, 100.0)], "curve") == Markup(
        '<polyline points="1.3,0 3.1,100" class="curve"/>'
    )
    assert dots([(1.0, 2.55)], "s1") == Markup('<path d="M1 2.5h0" class="dots s1"/>')
    assert tag("g", class_=None) == Markup("<g/>")


def test_axes_write_their_ticks() -> None:
    plot = Plot.of("a label", (0.0, 10.0), (0.0, 1.0))
    drawing = plot.draw(plot.x_axis("steps"), plot.y_axis("share"))
    assert 'aria-label="a label"' in drawing
    assert all(f">{word}<" in drawing for word in ("steps", "share", "10", "0.4"))


def test_tick_texts() -> None:
    assert (plain(0.0), plain(-1500.0), plain(0.25)) == ("0", "\u22121,500", "0.25")
    assert power_of_ten(1e-5) == "10⁻⁵"
