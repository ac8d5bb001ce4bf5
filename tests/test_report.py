import csv
import math

import pytest

import instaaug_transforms as ia
from instaaug_transforms.utils.report import Report, Section, flatten
from instaaug_transforms.utils.stats import UNDEFINED, Interval


class Heights(Report):
    """Two records, one interval each."""

    def records(self):
        return [
            {"who": "an_a", "mean": Interval(1.25, 1, 2), "n": 3},
            {"who": "", "mean": UNDEFINED, "n": math.nan},
        ]

    def sections(self):
        figures = {"mean, cm": ("mean", ".1f", 100), "n": ("n", ".0f", 1)}
        return [
            Section("Heights", "One line.\nAnother.", self.records(), {"who?": "who"}, figures),
            Section("A picture alone", draw=lambda: None),
        ]


def test_tables_show_formatted_intervals_and_dashes():
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in Heights().summary().splitlines()[-4:]]
    assert rows[0] == ["who?", "mean, cm", "n"]
    assert rows[2:] == [["an_a", "125.0 [100.0, 200.0]", "3"], ["–", "–", "–"]]
    html = Heights().sections()[0].table("html")
    assert 'style="text-align: right;">125.0 [100.0, 200.0]' in html and "<td>an_a" in html


def test_summary_has_headings_and_no_empty_section():
    text = Heights().summary()
    assert text.startswith("## Heights\n\nOne line.\nAnother.\n\n|") and "picture" not in text
    assert str(Heights()) == repr(Heights()) == Heights()._repr_markdown_() == text  # in a notebook too
    report = ia.measure.InvarianceReport
    assert report.__repr__ is Report.__repr__  # which a dataclass would replace


def test_an_interval_takes_three_columns():
    assert flatten({"a": 1, "b": Interval(2, 1, 3)}) == {"a": 1, "b": 2, "low": 1, "high": 3}
    two = flatten({"b": Interval(2, 1, 3), "c": Interval(5, 4, 6)})
    assert two == {"b": 2, "b_low": 1, "b_high": 3, "c": 5, "c_low": 4, "c_high": 6}


def test_rows_go_to_csv(tmp_path):
    Heights().to_csv(tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["who", "mean", "low", "high", "n"] and float(rows[0]["high"]) == 2


def test_a_report_without_picture_says_so():
    with pytest.raises(ia.InstaAugError, match=r"Heights has no picture; use summary\(\) or rows\(\)"):
        Heights().plot()
