"""The drawings of a study: our points with their intervals, the paper's as open circles."""

import xml.etree.ElementTree as ET

from lorapar.report.page import Point, Series, dot_chart, key_of, line_chart

SVG = "{http://www.w3.org/2000/svg}"
OURS = Series(
    "QKVGUD",
    (Point("a", 0.5, 0.2, (0.1, 0.3), 0.15), Point("b", 0.9, 0.4, (0.3, 0.5), 0.27), Point("c", 1.0, 0.5, None)),
)
OTHER = Series("<QKV>", (Point("a", 0.5, 0.1, None),))


def circles(drawing, kind):
    return [one for one in ET.fromstring(drawing).iter(f"{SVG}circle") if one.get("class").startswith(kind)]  # noqa: S314


def test_a_line_over_a_setting_rises_with_its_shares():
    drawing = line_chart("theta", "partition.theta", [OURS, OTHER])
    ours = [one for one in circles(drawing, "dot") if "series1" in one.get("class")]
    heights = [float(one.get("cy")) for one in ours]
    assert heights == sorted(heights, reverse=True)
    assert len(circles(drawing, "bar-open")) == 2
    assert "partition.theta" in drawing


def test_a_row_for_each_cell_holds_every_series():
    drawing = dot_chart("cells", [OURS, OTHER])
    assert [len(circles(drawing, kind)) for kind in ("dot", "bar-open")] == [4, 2]
    places = [float(one.get("cx")) for one in circles(drawing, "dot series1")]
    assert places == sorted(places)


def test_names_are_text_whatever_they_say():
    named = Series("x", (Point("<script>", 0.0, 0.5, None),))
    assert "<script>" not in dot_chart("cells", [named])
    assert key_of([OURS, OTHER]) == [("series1", "QKVGUD"), ("series2", "<QKV>")]
