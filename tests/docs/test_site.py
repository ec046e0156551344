"""The site that `make site` makes of the pages: whole, strict, and of nobody else's host."""

import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from ringkeeperd.transitions import TRANSITIONS
from tests.docs.pages import ROOT
from tests.docs.test_docs import PAGES, names

MKDOCS = ROOT / ".venv" / "site" / "bin" / "mkdocs"
NOT_OURS = shutil.ignore_patterns(
    ".*", "var", "secrets", "dist", "node_modules", "__pycache__", "*.egg-info"
)
pytestmark = pytest.mark.long


def built(repository: Path) -> subprocess.CompletedProcess[str]:
    if not MKDOCS.exists():
        pytest.skip("mkdocs is not installed: run make .venv/site/made")
    return subprocess.run(
        [MKDOCS, "build", "--strict", "--site-dir", repository / "dist/site"],
        cwd=repository,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT, tmp_path / "copy", ignore=NOT_OURS))


def test_every_page_is_in_it_each_link_leads_somewhere_and_all_of_it_is_ours(copy: Path) -> None:
    done = built(copy)
    assert (done.returncode, "WARNING" in done.stderr) == (0, False), done.stderr
    site = copy / "dist/site"
    pages = {str(page.relative_to(site)) for page in site.glob("**/*.html")}
    for name in names(PAGES):
        at = re.sub(r"README\.html$", "index.html", name.removesuffix(".md") + ".html")
        assert at in pages, name
    assert {"examples/app.py.html", "docs/adr/index.html", "config.yaml.html"} < pages
    for name in sorted(pages - {"404.html"}):  # whose links begin at the root of the host
        text = (site / name).read_text()
        loaded = re.findall(r'<(?:script|img|iframe|link)\b[^>]*?(?:src|href)="?([^"\s>]+)', text)
        assert [each for each in loaded if re.match(r"(https?:)?//", each)] == [], name
        for link in re.findall(r'(?:href|src)="([^"]+)"', text):
            path = unquote(unescape(link)).partition("#")[0].partition("?")[0]
            if path and not re.match(r"https?:|mailto:|data:", path):
                assert ((site / name).parent / path).resolve().is_file(), (name, link)


def test_what_leads_nowhere_fails_and_is_named(copy: Path) -> None:
    page = copy / "docs/secrets.md"
    page.write_text(
        page.read_text() + "\n[a](nowhere.md) [b](import.md#nowhere) [c](../daemon/none.py)\n"
    )
    (copy / "docs/stray.md").write_text("# A page without a place\n")
    done = built(copy)
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if "nowhere.md" in line]
    assert told, done.stderr
    assert "anchor '#nowhere'" in done.stderr
    assert "'daemon/none.py' is not found" in done.stderr
    assert "docs/stray.md" in done.stderr


def test_lists_tables_and_code_are_what_they_are_on_a_code_host(copy: Path) -> None:
    """Python-Markdown is not quite what code hosts read."""
    assert built(copy).returncode == 0
    site = copy / "dist/site"
    assert "<table>" in (site / "docs/configuration.html").read_text()  # behind a comment
    nested = (site / "docs/refresh-spikes.html").read_text()
    assert re.search(r"<li>\s*<p><strong>An app in any other language.*?<pre>", nested, re.DOTALL)
    life = (site / "docs/lifecycle.html").read_text()
    assert 'src="lifecycle.svg"' in life
    assert (site / "docs/lifecycle.svg").read_text().count("marker-end") == len(TRANSITIONS)
    words = (site / "index.html").read_text()
    assert "<strong>ringkeeper daemon</strong> → <strong>Redis</strong>: publishes" in words
    for page in site.glob("**/*.html"):
        assert "mermaid" not in page.read_text() or "adr" in str(page) or "CONTRIB" in page.name
        article = page.read_text().partition("<article")[2].partition("</article>")[0]
        prose = re.sub(r"<(pre|code)\b.*?</\1>", "", article, flags=re.DOTALL)
        assert not re.search(r"```|\| \||\]\(|^- ", prose, re.MULTILINE), page
