import re
import xml.etree.ElementTree

import pytest

from kdtf.evaluation import Comparison
from kdtf.evaluation import Row
from kdtf.evaluation.latency import Latency
from kdtf.evaluation.pictures import Axis
from kdtf.evaluation.pictures import draw_points
from kdtf.evaluation.pictures import needs_log
from kdtf.evaluation.pictures import pareto_front
from kdtf.evaluation.pictures import shorten
from kdtf.evaluation.report import make_figures
from kdtf.evaluation.report import render_report
from kdtf.evaluation.report import summarize


def make_row(name, size, latency, accuracy, **changes):
    return Row(
        name=name,
        kind="tflite",
        num_parameters=size,
        num_nonzero=size,
        size_bytes=size,
        gzip_size_bytes=size,
        latency=latency
        and Latency(p50_ms=latency, p90_ms=latency, num_runs=5, num_threads=1),
        metrics={} if accuracy is None else {"accuracy": accuracy},
        **changes,
    )


TEACHER = make_row("teacher", 4_000_000, 8.0, 0.9)
STUDENT = make_row("student", 100_000, 2.0, 0.8)
UNTIMED = make_row("<b>$x_1$ & co</b>", 50_000, None, 0.7)


def comparison_of(*rows):
    return Comparison(rows=rows, directions={"accuracy": "higher"})


def page_of(*rows, **kwargs):
    return render_report(
        comparison_of(*rows), **{"title": "Report", "notes": {}, **kwargs}
    )


def svgs_of(page):
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


def test_the_page_needs_no_network(tmp_path):
    path = comparison_of(TEACHER, STUDENT).to_html(tmp_path / "a.html")
    page = path.read_text()
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?\w+:""", page)
    assert not re.findall(r"<(?:script|link|img|iframe)|@import", page)
    assert len(svgs_of(page)) == 2


def test_the_pictures_are_whole_xml_with_ids_of_their_own():
    first, second = svgs_of(page_of(TEACHER, STUDENT))
    for svg in (first, second):
        xml.etree.ElementTree.fromstring(svg)
        texts = re.findall(r">([^<>]+)</text>", svg)
        assert "teacher" in texts and "student" in texts
    ids = [re.findall(r' id="([^"]+)"', svg) for svg in (first, second)]
    assert not set(ids[0]) & set(ids[1])


def test_names_titles_and_notes_are_escaped():
    page = page_of(
        TEACHER,
        UNTIMED,
        title="<i>T</i>",
        notes={"<u>h</u>": "<script>alert(1)</script>\n  kept"},
    )
    for raw in ("<b>$x_1$", "<i>T", "<u>h", "<script"):
        assert raw not in page
    assert "&lt;b&gt;$x_1$ &amp; co&lt;/b&gt;" in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\n  kept" in page


def test_the_table_has_every_row_and_says_what_is_missing():
    note = make_row("c", 5, None, 0.5, notes=("not timed: Flex ops",))
    page = page_of(TEACHER, note)
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    assert body.count("<tr>") == 2
    assert body.count("not measured") == 2
    assert "not timed: Flex ops" in page


def test_rows_without_latency_are_named_under_the_picture():
    by_size, by_latency = make_figures(comparison_of(TEACHER, UNTIMED))
    assert by_size["caption"] == ""
    assert "<b>$x_1$ & co</b>" in by_latency["caption"]
    assert by_latency["svg"].count("teacher") == 1


def test_without_any_latency_there_is_nothing_to_draw():
    page = page_of(UNTIMED)
    assert len(svgs_of(page)) == 1
    assert "Nothing to draw" in page


def test_without_quality_latency_stands_against_size():
    rows = [make_row(n, s, t, None) for n, s, t in [("a", 9, 1.0), ("b", 5, 2)]]
    (figure,) = make_figures(Comparison(rows=tuple(rows)))
    assert figure["title"] == "Latency and size"
    assert "lower is better" in figure["svg"]


def test_without_metrics_agreement_is_the_quality():
    rows = [
        make_row("a", 9, 1.0, None, agreement=1.0),
        make_row("b", 5, 2.0, None, agreement=0.5),
    ]
    figures = make_figures(Comparison(rows=tuple(rows)))
    assert "agreement with a" in figures[0]["svg"]


def test_the_summary_says_what_was_gained_and_what_it_cost():
    slower = make_row("slower", 8_000_000, 12.0, 0.95)
    assert summarize(comparison_of(TEACHER, STUDENT, slower, UNTIMED)) == [
        (
            "student",
            "40× smaller and 4× faster than teacher; "
            "accuracy 0.8000 (teacher: 0.9000).",
        ),
        (
            "slower",
            "2× larger and 1.5× slower than teacher; "
            "accuracy 0.9500 (teacher: 0.9000).",
        ),
        (
            "<b>$x_1$ & co</b>",
            "80× smaller than teacher; accuracy 0.7000 (teacher: 0.9000).",
        ),
    ]


def test_the_front_is_what_nothing_beats():
    size = Axis(title="size", values=(1, 2, 3, 1), better="lower")
    score = Axis(title="score", values=(5, 4, 6, 4.5), better="higher")
    assert pareto_front(size, score) == [True, False, True, False]
    loss = Axis(title="loss", values=(5, 4, 6, 4.5), better="lower")
    assert pareto_front(size, loss) == [False, True, False, True]


def test_equal_points_do_not_beat_each_other():
    x = Axis(title="x", values=(1, 1), better="lower")
    assert pareto_front(x, x) == [True, True]


def test_sizes_far_apart_stand_on_a_log_axis():
    assert needs_log([1000, 10_001])
    assert not needs_log([1000, 10_000])
    assert not needs_log([0, 10_000])
    assert not needs_log([5])


def test_a_row_of_equal_size_is_no_smaller():
    twin = make_row("twin", 4_000_000, 8.01, 0.9)
    ((_, sentence),) = summarize(comparison_of(TEACHER, twin))
    assert sentence.startswith("no smaller and no faster than teacher; ")


@pytest.mark.parametrize("num_points", [1, 2, 12])
@pytest.mark.parametrize("span", [1.0, 1.5, 1e4])
def test_any_number_of_points_is_drawn(num_points, span):
    steps = [i / max(1, num_points - 1) for i in range(num_points)]
    x = Axis(
        title="size",
        values=tuple(1000 * span**step for step in steps),
        better="lower",
        is_bytes=True,
    )
    y = Axis(title="score", values=(0.5,) * num_points, better="higher")
    names = [f"model {i}" for i in range(num_points)]
    svg = draw_points(names, x, y)
    texts = re.findall(r">([^<>]+)</text>", svg)
    assert [text for text in texts if text.startswith("model")] == names
    assert any(text.endswith("kB") for text in texts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("short", "short"), ("abcdefgh", "abc…gh"), ("abcdef", "abcdef")],
)
def test_long_names_lose_their_middle(name, expected):
    assert shorten(name, longest=6) == expected
