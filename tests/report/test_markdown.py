"""The pieces of Markdown that reports and model cards are made of."""

from __future__ import annotations

from medsum_core.report.markdown import code, duration, figure, id_list, table


def test_tables_code_ids_figures_and_durations() -> None:
    assert table(("a", "b"), [("x|y", "1\n2")]) == "| a | b |\n| :--- | ---: |\n| x\\|y | 1 2 |"
    assert code("a`b\nc") == "`a'b c`"
    assert id_list([]) == "none" and id_list(["1"] * 1001).endswith("and 1 more")
    assert [figure(-0.5, digits=1), figure(None), figure(float("nan"))] == ["−0.5", "–", "–"]
    assert [duration(8.44), duration(200), duration(7500)] == ["8.4 s", "3 min 20 s", "2 h 05 min"]
