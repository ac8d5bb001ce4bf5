import base64
import html.parser
import re
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

import instaaug_transforms as ia
from instaaug_transforms.measure import Probe, compare, write_page

from .conftest import make_lively

pytestmark = pytest.mark.usefixtures("one_thread")


class Reader(html.parser.HTMLParser):
    """Checks that tags nest, and gathers what the page refers to."""

    void = {"meta", "img", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.links, self.ids, self.images, self.text = [], [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[key] for key in ("href", "src") if key in attrs]
        if tag == "img":
            self.images.append(attrs)
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))
    data = torch.rand(16, 3, 16, 16), torch.arange(16) % 4
    probe = Probe(model, data, transformations=["rotate", "hue", "posterize"], progress=False)
    survey = probe.survey()
    others = [
        survey.factors,
        survey.alignment,
        probe.equivariance("0"),
        probe.lie(),
        probe.learned(make_lively(["crop", "rotate"]), steps=5),
        compare({"before": survey.invariance, "after": survey.invariance}),
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, survey.invariance, *others, title="A <title> & more")
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return survey, path.read_text(encoding="utf-8"), reader


def test_nothing_is_fetched(page):
    _, text, reader = page
    assert all(link.startswith(("data:image/svg+xml;base64,", "#")) for link in reader.links)
    assert not re.search(r"url\(|@import|<script|<link", text)


def test_the_page_is_well_formed(page):
    _, _, reader = page
    assert not reader.open and len(set(reader.ids)) == len(reader.ids)
    assert {link[1:] for link in reader.links if link.startswith("#")} == set(reader.ids)
    assert "A <title> & more" in reader.text and "$" not in "".join(reader.text)


def test_every_section_is_there_with_its_plot(page):
    _, _, reader = page
    for title in ("Invariance", "Raw distances", "Classes", "Factors of variation", "Displacement alignment"):
        assert title in reader.text
    for title in ("Local error", "Learned against measured", "Before and after", "Feature-map equivariance (l2)"):
        assert title in reader.text
    assert len(reader.images) == 6
    for image in reader.images:
        drawn = ElementTree.fromstring(base64.b64decode(image["src"].split(",", 1)[1]))
        assert drawn.tag.endswith("svg") and image["alt"]


def test_figures_are_those_of_the_report(page):
    survey, text, _ = page
    row = survey.invariance.summary_rows()[0]
    assert (
        f"{row['relative_cosine']:+.2f} [{row['relative_cosine_low']:+.2f}, {row['relative_cosine_high']:+.2f}]" in text
    )
    assert f"{survey.factors.specificity().statistic:.2f}" in text


def test_the_page_and_the_summary_show_the_same(page):
    survey, _, reader = page
    shown = {text.strip() for text in reader.text}
    for report in survey:
        lines = [line for line in report.summary().splitlines() if line.startswith("|") and not line.startswith("|-")]
        cells = {cell.strip() for line in lines for cell in line.strip("|").split("|")}
        assert cells - {""} <= shown and len(cells) > 10


def test_a_report_alone_and_without_labels(tmp_path):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
    report = ia.measure_invariance(model, torch.rand(6, 3, 8, 8), transformations="hue", progress=False)
    write_page(tmp_path / "p.html", report)
    text = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "What Sequential is invariant to" in text and "Classes" not in text and "nan" not in text
    with pytest.raises(ia.InstaAugError, match="expected reports .*, got int"):
        write_page(tmp_path / "p.html", report, 3)


def test_any_report_may_come_first_and_two_of_a_kind_have_places_of_their_own(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 3))
    probe = Probe(model, torch.rand(6, 3, 8, 8), transformations="rotate", progress=False)
    write_page(tmp_path / "p.html", probe.lie("zoom"), probe.equivariance("0"), probe.equivariance("1"))
    reader = Reader()
    reader.feed((tmp_path / "p.html").read_text(encoding="utf-8"))
    assert len(reader.ids) == len(set(reader.ids)) == 3 and reader.text.count("Local error") == 4
    with pytest.raises(ia.InstaAugError, match="expected reports .*, got str"):
        write_page(tmp_path / "p.html", "report")


def test_plots_go_to_files(page, tmp_path):
    survey = page[0]
    survey.invariance.plot(tmp_path / "a.png")
    survey.factors.plot(tmp_path / "b.svg")
    assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG" and b"<svg" in (tmp_path / "b.svg").read_bytes()


def test_the_legend_of_a_single_panel_fits_on_the_page():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
    data = torch.rand(6, 3, 8, 8), torch.arange(6) % 3
    figure = ia.measure_invariance(model, data, transformations="hue", progress=False).plot()
    figure.draw_without_rendering()
    for text in figure.legends[0].get_texts():
        extent = text.get_window_extent()
        assert extent.x0 >= 0 and extent.x1 <= figure.bbox.width, text.get_text()
