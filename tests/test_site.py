"""The documentation as a site (`make site`): whole, read as on a code host, no other host asked."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
# What Python-Markdown is known to read differently from CommonMark: lists after a paragraph, code in lists, tables.
COUNTED = ("li", "tr", "pre", "h2", "h3", "img", "strong")


def make_site(folder: Path) -> subprocess.CompletedProcess[str]:
    """`make site` in a folder, with the environment that runs this test."""
    command = ["make", "--no-print-directory", "site", "STAMP=", f"BIN={Path(sys.executable).parent}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the site is made of, in a folder that a test may change."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("Makefile", "mkdocs.yml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("docs", "examples", "images", "helm/lorapar", "lorapar/presets"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def site(checkout: Path) -> Path:
    made = make_site(checkout)
    assert made.returncode == 0, made.stderr
    return checkout / "build/site"


def counts(page_html: str) -> dict[str, int]:
    return {tag: len(re.findall(rf"<{tag}[ >]", page_html)) for tag in COUNTED}


def test_every_page_reads_as_on_a_code_host(site: Path) -> None:
    """Python-Markdown drops lists and fences that CommonMark shows; the number of each is the same."""
    source, markdown = site.parent / "site-source", MarkdownIt("commonmark").enable(["table", "strikethrough"])
    pages = sorted(source.rglob("*.md"))
    different = {}
    for page in pages:
        place = page.relative_to(source)
        folder = place.parent if place.name == "README.md" else place.with_suffix("")
        article = re.search(r"<article[^>]*>(.*?)</article>", (site / folder / "index.html").read_text("utf-8"), re.S)
        assert article, place
        here, there = counts(article[1]), counts(markdown.render(page.read_text("utf-8")))
        if here != there:
            different[place.as_posix()] = {tag: (here[tag], there[tag]) for tag in COUNTED if here[tag] != there[tag]}
    assert len(pages) > 40
    assert not different


def test_site_loads_nothing_from_another_host(site: Path) -> None:
    loads = re.compile(r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(?:https?:)?//[^\s\">]+")
    found = {page.relative_to(site).as_posix(): loads.findall(page.read_text("utf-8")) for page in site.rglob("*.html")}
    assert not {page: lines for page, lines in found.items() if lines}


def test_schema_of_the_settings_is_published_with_the_pages(site: Path) -> None:
    published = site / "lorapar/presets/lorapar.schema.json"
    assert published.read_bytes() == (ROOT / "lorapar/presets/lorapar.schema.json").read_bytes()


def test_links_that_lead_nowhere_and_pages_that_no_menu_names_fail_the_build(site: Path, checkout: Path) -> None:
    readme, forgotten = checkout / "README.md", checkout / "docs/forgotten.md"
    with readme.open("a", encoding="utf-8") as page:
        page.write("\n[gone](docs/gone.md) and [no such part](docs/kubeflow.md#no-such-part)\n")
    forgotten.write_text("# Forgotten\n", "utf-8")
    made = make_site(checkout)
    assert made.returncode != 0
    assert all(message in made.stderr for message in ("docs/gone.md", "no-such-part", "docs/forgotten.md")), made.stderr
