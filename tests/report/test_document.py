"""Is the report true to the folder, readable in every state of it, and inert whatever text it is given?"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from report_cases import make_case
from report_pictures import field, gate_is_wrong, summary
from typer.testing import CliRunner

from parity.cli import app
from parity.climb.store import RUNGS as FOLDER
from parity.errors import UsageError
from parity.fingerprint import reduce_field
from parity.ladder.ledger import LEDGER, Ledger
from parity.report import gallery
from parity.report.contents import LOOK_HERE
from parity.report.document import UNDRAWN, Written, report_investigation
from parity.report.quoting import quote_html, quote_markdown

HOSTILE = (
    "<script>document.title='taken'</script>\"><img src=x onerror=alert(1)> a|b `c` **d** [e](http://evil.example) "
    "![f](http://evil.example/f.png) www.evil.example http://evil.example {{ 7*7 }} {% raw %} $x$ &lt; \u202eright to "
    "left\u2066 \x00\x07\x1b[31m \ufffd \ud800\r\n# heading\n- item\n---\n```\n</pre></table></style> \\| end"
)
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Tags in order, text, and whether every element is closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, *names: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.tags if tag in names]


def write(folder: Path, into: Path) -> tuple[Written, str, str]:
    written = report_investigation(folder, markdown=into / "report.md", html=into / "report.html")
    return written, (into / "report.md").read_text(), (into / "report.html").read_text()


@pytest.fixture(scope="module")
def fault(tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, str, str]:
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("fault")
    return write(make_case(folder / "case"), folder)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Written, str, str]:
    """Without figures: what they do with such text is test_plots' business."""
    folder = tmp_path_factory.mktemp("hostile")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gallery, "find_spec", lambda name: None)
        return write(make_case(folder / "case", text=HOSTILE), folder)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without figures, which take most of the time."""
    monkeypatch.setattr(gallery, "find_spec", lambda name: None)


def test_a_fault_is_told_from_the_symptom_to_the_command(fault: tuple[Written, str, str]):
    written, markdown, page = fault
    text = "".join(Page(page).text)
    for said in (
        "rows past a tile edge were never written", f"{LOOK_HERE}.", "The first stage that adds error is moe.gate",
        "80.00", "2 of 45 sites add error of their own", "grid_cap=48 truncated=true", "proved",
        "the SUT's own tensors at L01.moe.gate change 0", "It is the sampler, says", "another seed mends it", "seeds 5",
        "rows", "48 to 69", "parity ledger show --case", "stub:engine", "halves exchanged", "KL 0.3 -> 0.001",
    ):  # fmt: skip
        assert said in text, said
        assert said in re.sub(r"\\(.)", r"\1", markdown).replace("&gt;", ">"), said
    titles = [title for _, title in written.figures]
    assert len(titles) == 9
    assert any("The grid ends at 48 rows an expert" in title for title in titles)
    headings = re.findall(r"^## (.*)$", markdown, re.MULTILINE)
    assert headings == [
        "Symptom", "Setup and provenance", "What was done, in this order", "Finding", "Proof", "What it was not",
        "What is not excluded", "More figures", "Every number, and how to see it again",
    ]  # fmt: skip
    for name in re.findall(r"\]\((figures/[^)]+)\)", markdown):
        assert (written.files[0].parent / name).read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("kind", ["fault", "hostile"])
def test_the_page_is_well_formed_and_needs_nothing_else(kind: str, request: pytest.FixtureRequest):
    page = Page(request.getfixturevalue(kind)[2])
    assert not page.named("script", "link", "iframe", "object", "form", "base", "svg")
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    for attrs in page.named("img"):
        assert (attrs["src"] or "").startswith("data:image/png;base64,")
        assert attrs["alt"], "a figure without words for who cannot see it"
    assert all((attrs["href"] or "").startswith("#") for attrs in page.named("a"))
    ids = {attrs["id"] for _, attrs in page.tags if "id" in attrs}
    assert {attrs["href"] for attrs in page.named("a")} <= {f"#{name}" for name in ids}
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels)), "a level is left out"
    assert page.named("html")[0]["lang"] == "en"
    assert "@media print" in "".join(page.text)
    assert "prefers-color-scheme: dark" in "".join(page.text)
    assert "url(" not in "".join(page.text).split("</style>")[0].split("body {")[0]


def test_text_of_models_and_people_stays_text(hostile: tuple[Written, str, str]):
    _, markdown, html = hostile
    page = Page(html)
    assert "<script>document.title='taken'</script>" in "".join(page.text)
    assert html.count("<script") == 0
    assert "49" not in re.findall(r"evil\.example \{\{ (.*?) \}\}", "".join(page.text)), "no template in a template"
    for text in (markdown, html):
        assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x07\x1b\ud800]", text)
        assert "\\u202e" in text.replace("\\\\", "\\")
    rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    inert = Page(rendered)
    assert not inert.named("script", "a")
    assert all((attrs["src"] or "").startswith("figures/") for attrs in inert.named("img"))
    assert "<script>document.title='taken'</script>" in "".join(inert.text)
    plain = MarkdownIt("commonmark", {"html": True}).enable("table")
    headings = [token.tag for token in plain.parse(markdown) if token.type == "heading_open"]
    assert headings == ["h1", *["h2"] * 4, "h3", *["h2"] * 4, *["h3"] * 9], "a text has become a heading"
    for table in re.findall(r"<tr>.*?</tr>", rendered, re.DOTALL):
        assert len(re.findall(r"<t[dh]", table)) in (2, 4, 5), "a cell was broken in two"


LINES = ("- x", "1. x", "1.", "2)", "=x", "===", "---", "- - -", "-", "+", "  + y", "_a_", "a_", "__b__", "# h")
LINES += ("![x](y)", "http://a.b", "", "9.31 units", "-0.5", "L00.moe.topk_ids", "5.3")


@pytest.mark.parametrize("value", [HOSTILE, *LINES, None, 0.123456, True, 7])
def test_a_value_is_one_line_of_text(value: Any):
    for quoted in (quote_html(value), quote_markdown(value)):
        assert quoted
        assert "\n" not in quoted
    tokens = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(str(quote_markdown(value)))
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    assert {child.type for child in tokens[1].children or ()} <= {"text", "text_special"}


@pytest.mark.parametrize("value", ["9.31 units", "-0.5 of its gate", "L00.moe.topk_ids", "done!", 9.31])
def test_what_markdown_does_not_act_on_is_left_as_it_is(value: Any):
    assert str(quote_markdown(value)) == str(value)


def test_a_megabyte_of_text_is_cut_and_counted(tmp_path: Path, undrawn: None):
    _, markdown, page = write(make_case(tmp_path / "case", text="x" * 1_000_000), tmp_path)
    assert "(1,000,000 characters)" in page
    assert len(page) < 400_000
    assert len(markdown) < 400_000


SAYINGS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "clean": ({"verdict": "clean"}, ("Verdict: clean.", "Nothing to mend was found.", "there is no site to prove")),
    "refused": ({"verdict": "refused"}, ("Verdict: refused.", "No recommendation yet.", "Its traces are not")),
    "unresolved": ({"verdict": "unresolved"}, ("Verdict: unresolved.", "No recommendation yet.", "settle first")),
    "nothing yet": ({"rungs": 0}, ("not finished", "No recommendation yet.", "0 prompt, 1 audit", "not been reached")),
    "half way": ({"rungs": 3}, ("not finished", "rungs 3 invariances", "missing: rung 3", "not reached")),
    "no audit": ({"skipped": (1,)}, ("No recommendation yet.", "left out", "missing: rung 1", "never written")),
}


@pytest.mark.parametrize("state", SAYINGS)
def test_every_state_of_an_investigation_gives_a_report(state: str, tmp_path: Path, undrawn: None):
    options, sayings = SAYINGS[state]
    written, markdown, html = write(make_case(tmp_path / "case", **options), tmp_path)
    text = "".join(Page(html).text)
    for said in sayings:
        assert said in text, said
    assert LOOK_HERE not in text, "no fix without a fault, and none before the falsifications"
    assert UNDRAWN in text
    assert "![" not in markdown
    assert written.report.advice != LOOK_HERE


def test_withdrawn_evidence_stops_the_recommendation(tmp_path: Path, undrawn: None):
    folder = make_case(tmp_path / "case")
    assert report_investigation(folder).report.advice == LOOK_HERE
    Ledger(folder).withdraw("T1", because="the template was of another model")
    report = report_investigation(folder).report
    assert report.advice == "No recommendation yet"
    assert "rung 0, whose evidence was withdrawn" in report.recommendation
    assert any("the template was of another model" in note for note in report.notes)
    assert report.steps[0].status == "withdrawn"
    assert "H1" in {row[0] for row in report.undecided}
    assert "H1" not in {row[0] for row in report.refuted}


def test_a_fix_without_its_proof_is_said_to_be_so(tmp_path: Path, undrawn: None):
    report = report_investigation(make_case(tmp_path / "case", rungs=7)).report
    assert report.advice == LOOK_HERE
    assert report.recommendation.endswith("The finding is not proved yet.")
    assert (report.proof_state, report.proof) == ("not proved", ("the rung has not been reached",))


def test_an_older_finding_is_said(tmp_path: Path, undrawn: None):
    folder = make_case(tmp_path / "case")
    (folder / "finding.json").write_text('{"verdict": "clean", "stage": null, "cause": null}')
    assert any("otherwise than the rungs' results" in note for note in report_investigation(folder).report.notes)


def spoil(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return do


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "no folder": (shutil.rmtree, "case.json"),
    "no case": (lambda folder: (folder / "case.json").unlink(), "case.json"),
    "a case of nothing": (spoil("case.json", lambda b: b"[]"), "case.json"),
    "half a case": (spoil("case.json", lambda b: b[:90]), "case.json"),
    "half a rung": (spoil(f"{FOLDER}/04-sweep.json", lambda b: b[:-30]), "04-sweep.json"),
    "a number changed": (spoil(f"{FOLDER}/05-replay.json", lambda b: b.replace(b"80.0", b"10.0")), "SHA-256"),
    "bytes that are no text": (spoil(f"{FOLDER}/00-prompt.json", lambda b: b"\xff\xfe" + b), "00-prompt.json"),
    "a ledger line changed": (spoil(LEDGER, lambda b: b.replace(b"refuted", b"settled", 1)), "ledger"),
    "no ledger": (lambda folder: (folder / LEDGER).unlink(), "ledger.jsonl"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_refused(kind: str, tmp_path: Path, undrawn: None):
    folder = make_case(tmp_path / "case")
    damage, said = DAMAGE[kind]
    damage(folder)
    with pytest.raises(UsageError, match=re.escape(said)):
        report_investigation(folder, html=tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_command_writes_both_and_prints_json(tmp_path: Path, undrawn: None):
    folder = make_case(tmp_path / "case")
    done = CliRunner().invoke(app, ["report", str(folder)])
    assert done.exit_code == 0, done.output
    assert (folder / "report.md").is_file()
    assert (folder / "report.html").is_file()
    printed = CliRunner().invoke(app, ["report", str(folder), "--json", "--html", str(tmp_path / "deep" / "a.html")])
    content = json.loads(printed.output)
    assert content["report"]["verdict"] == "fault"
    assert content["files"] == [str(tmp_path / "deep" / "a.html")]
    with pytest.raises(UsageError):
        report_investigation(folder, html=folder / "case.json" / "x.html")


def test_a_finding_without_heads_or_experts_has_fewer_figures(tmp_path: Path):
    pytest.importorskip("matplotlib")
    found = gallery.Investigation.read(make_case(tmp_path / "case", verdict="clean"))
    assert [one.name for one in gallery.draw_gallery(found)] == [
        "layer-stage-map", "error-by-depth", "score-distribution", "text-divergence",
    ]  # fmt: skip
    assert reduce_field(field()).heads.shape == (6, 5)
    assert summary(1, gate_is_wrong).diverged is False


@pytest.mark.parametrize("flags", [[], ["--force-dark-mode"]])
def test_a_browser_shows_the_text_and_runs_nothing(flags: list[str], hostile: tuple[Written, str, str], tmp_path: Path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed: the page is parsed, not shown")
    page, shot = hostile[0].files[-1], tmp_path / "shot.png"
    common = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", *flags]
    dom = subprocess.run([*common, "--dump-dom", page.as_uri()], capture_output=True, timeout=120, check=True)
    text = dom.stdout.decode()
    assert "<title>Investigation of stub:engine" in text, "a script has changed the title"
    assert "&lt;script&gt;" in text
    assert "<script" not in text
    subprocess.run(
        [*common, f"--screenshot={shot}", "--window-size=1000,1400", page.as_uri()], capture_output=True, timeout=120,
        check=True,
    )  # fmt: skip
    from PIL import Image

    image = Image.open(shot).convert("L")
    assert len(image.getcolors(256) or ()) > 20, "an empty page"
