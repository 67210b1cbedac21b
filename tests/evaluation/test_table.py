import io

import pytest
import rich.console

from kdtf.evaluation import Comparison
from kdtf.evaluation import Row
from kdtf.evaluation.columns import digits
from kdtf.evaluation.columns import make_columns
from kdtf.evaluation.columns import short
from kdtf.evaluation.latency import Latency
from kdtf.evaluation.table import caption_of
from kdtf.evaluation.table import print_table
from kdtf.evaluation.table import table_text


def make_row(name, size, latency, metrics, **changes):
    return Row(
        name=name,
        kind="keras",
        num_parameters=size // 4,
        num_nonzero=size // 8,
        size_bytes=size,
        gzip_size_bytes=size // 2,
        latency=latency
        and Latency(p50_ms=latency, p90_ms=9.0, num_runs=5, num_threads=2),
        metrics=metrics,
        **changes,
    )


ROWS = (
    make_row("teacher", 8000, 2.5, {"accuracy": 0.9, "loss": 3.0}),
    make_row("[red]student", 800, None, {"accuracy": 0.8, "loss": 2.0}),
)
DIRECTIONS = {"accuracy": "higher", "loss": "lower"}


def test_columns_hold_the_values_and_mark_the_best():
    columns = {c.title: c for c in make_columns(ROWS, DIRECTIONS)}
    assert list(columns) == [
        "Size",
        "gzip",
        "p50 ms",
        "p90 ms",
        "accuracy",
        "loss",
        "Parameters",
        "Zeros",
    ]
    assert columns["Size"].cells == ("8 kB", "800 B")
    assert columns["Size"].best == {1}
    assert columns["p50 ms"].cells == ("2.5", "-")
    assert columns["p50 ms"].best == frozenset()
    assert columns["accuracy"].best == {0}
    assert columns["loss"].best == {1}
    assert columns["Parameters"].cells == ("2,000", "200")
    assert columns["Zeros"].cells == ("0.50", "0.50")


def test_equal_rows_have_no_best():
    columns = make_columns((ROWS[0], ROWS[0]), DIRECTIONS)
    assert all(column.best == frozenset() for column in columns)


def test_rows_that_share_the_best_are_both_marked():
    rows = (ROWS[0], ROWS[1], ROWS[1])
    assert make_columns(rows, DIRECTIONS)[0].best == {1, 2}


def test_what_reads_the_same_is_marked_the_same():
    rows = [make_row(n, s, 1.0, {}) for n, s in [("a", 1900), ("b", 1901)]]
    rows.append(make_row("c", 5000, 1.0, {}))
    assert make_columns(rows, {})[0].best == {0, 1}
    assert make_columns(rows[:2], {})[0].best == frozenset()


def test_a_metric_that_is_no_number_does_not_win():
    row = make_row("broken", 8, 1.0, {"accuracy": float("nan"), "loss": 9.0})
    columns = {c.title: c for c in make_columns((*ROWS, row), DIRECTIONS)}
    assert columns["accuracy"].cells[2] == "nan"
    assert columns["accuracy"].best == {0}


@pytest.mark.parametrize(
    ("value", "long", "brief"),
    [
        (0.0, "0.0000", "0"),
        (0.000012, "0.0000", "0.000012"),
        (-0.5, "-0.5000", "-0.5"),
        (31.4159, "31.42", "31.4"),
        (314.159, "314.2", "314"),
        (31415.9, "31416", "31416"),
        (float("nan"), "nan", "nan"),
    ],
)
def test_numbers_are_written_without_powers_of_ten(value, long, brief):
    assert digits(value) == long
    assert short(value) == brief


def test_the_text_has_every_row_note_and_caption():
    note = make_row("b", 8, 1.0, {}, notes=("not timed: why",))
    text = table_text(Comparison(rows=(*ROWS, note), num_examples=1234))
    assert "[red]student" in text
    assert "b: not timed: why" in text
    assert "quality on 1,234 examples" in text
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_text_is_whole_in_a_notebook_too(monkeypatch):
    # There Rich displays by itself, and would leave the text empty.
    comparison = Comparison(rows=ROWS, directions=DIRECTIONS)
    outside = table_text(comparison)
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    assert table_text(comparison) == outside and "teacher" in outside


def test_long_metric_names_break_at_underscores():
    name = "sparse_categorical_crossentropy"
    row = make_row("a", 8, 1.0, {name: 1.0})
    text = table_text(Comparison(rows=(row,), directions={name: "lower"}))
    assert "sparse" in text and "crossentropy" in text
    assert max(map(len, text.splitlines())) < 110


def test_a_narrow_terminal_loses_columns_not_digits(monkeypatch):
    rows = Comparison(rows=ROWS, directions=DIRECTIONS)
    buffer = io.StringIO()
    console = rich.console.Console(file=buffer, width=50, force_terminal=True)
    monkeypatch.setattr(rich.console, "Console", lambda: console)
    print_table(rows)
    text = buffer.getvalue()
    assert "too narrow to show: Zeros, Parameters, gzip" in text
    assert "…" not in text
    assert "800 B" in text


def test_a_pipe_gets_the_whole_table(capsys):
    comparison = Comparison(rows=ROWS, directions=DIRECTIONS)
    comparison.print()
    assert capsys.readouterr().out == f"{comparison}\n"


def test_the_caption_says_threads_runs_and_batch():
    comparison = Comparison(rows=ROWS, environment={"cpu": "Fast, 2 cores"})
    assert caption_of(comparison) == (
        "latency of one call at batch 1 on LiteRT, 2 threads, 5 runs each, "
        "in turn; Fast, 2 cores"
    )
