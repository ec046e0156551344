"""How `make site` makes pages of this repository; a hook of mkdocs, named in mkdocs.yml.

Pages lie where they are read on a code host: README.md, docs/, deploy/. So the site has the
repository's own layout, and a link from page to page is right in both. What is no page and is
linked to (a program, a configuration, a folder) becomes one, so that no link leads out of the site:
it needs no host, and can be read from a disk (all but its search).

What draws mermaid is 3 MB of script, which the theme would fetch from somebody else's host. So the
diagram of a key's life is the picture that docs/generate.py draws of the same table, and the other
one stands in words.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mkdocs.structure.files import File, Files, InclusionLevel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = ("*.md", "docs/**/*.md", "deploy/**/*.md")
_AS_THEY_ARE: Final = {".png", ".svg"}
_FOR_PROGRAMS: Final = ROOT / "docs/openapi.yaml"
_ADDED: Final = {"Runbooks": "docs/runbooks/*.md", "Decisions": "docs/adr/*.md"}
_LINK: Final = re.compile(r"(\]\()([^)\s]+)(\))")
_DIAGRAM: Final = re.compile(r"^```mermaid\n(.*?)^```", re.DOTALL | re.MULTILINE)
_NODE: Final = re.compile(r'(\w+)\[\(?"(.*?)"\)?\]')
_EDGE: Final = re.compile(r'(\w+) -- "(.*?)" --> (\w+)')
_LIFE: Final = ROOT / "docs/lifecycle.svg"
_LANGUAGES: Final = {
    ".mjs": "js",
    ".rb": "ruby",
    ".conf": "apache",
    ".service": "ini",
    ".timer": "ini",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give each runbook and each decision a place in the navigation."""
    for section in config.nav or []:
        for name, pattern in _ADDED.items():
            if name in section:
                section[name] = [_uri(path) for path in sorted(ROOT.glob(pattern))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The repository's pages, by their places in it; what they link to; what the theme brings."""
    pages = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    made: dict[str, File] = {_uri(path): _as_it_is(path, config) for path in (*pages, _LIFE)}
    waiting = [linked for page in pages for linked in _linked(page)]
    while waiting:
        path = waiting.pop()
        if path.is_dir() and not (path / "README.md").exists():
            waiting += [each for each in _inside(path) if each.is_file() and each.suffix != ".md"]
            made.setdefault(f"{_uri(path)}/index.md", _listing(path, config))
        elif path.suffix in _AS_THEY_ARE or path == _FOR_PROGRAMS:
            made.setdefault(_uri(path), _as_it_is(path, config))
        elif path.is_file() and path not in pages:
            made.setdefault(f"{_uri(path)}.md", _source(path, config))
    docs = Path(config.docs_dir)
    others = [
        file
        for file in files
        if not file.abs_src_path or docs not in Path(file.abs_src_path).parents
    ]
    return Files([*made.values(), *others])


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """`markdown`, in which a link to what became a page leads to that page."""
    del config
    folder = posixpath.dirname(page.file.src_uri)

    def there(link: re.Match[str]) -> str:
        path, hash_, anchor = link[2].partition("#")
        if not path or "://" in path:
            return link[0]
        target = posixpath.normpath(posixpath.join(folder, path))
        for name in (f"{target}.md", f"{target}/README.md", f"{target}/index.md"):
            if files.get_file_from_path(target) is None and files.get_file_from_path(name):
                return f"{link[1]}{posixpath.relpath(name, folder or '.')}{hash_}{anchor}{link[3]}"
        return link[0]

    markdown = _DIAGRAM.sub(_in_words, markdown)
    led = "".join(text if is_code else _LINK.sub(there, text) for is_code, text in _parts(markdown))
    # What belongs to an item of a list stands two spaces in; Python-Markdown wants four.
    return "".join(
        text if is_code else re.sub(r"^ {2,3}(?=\S)", " " * 4, text, flags=re.MULTILINE)
        for is_code, text in _parts(led, indented="")
    )


def _in_words(diagram: re.Match[str]) -> str:
    """The picture of a key's life; of a flowchart its arrows, one by one."""
    if diagram[1].startswith("stateDiagram"):
        return f"![The states of a key, and how it moves]({_LIFE.name})"
    told = {name: text.partition("<br>")[0] for name, text in _NODE.findall(diagram[1])}
    told = {name: re.sub(r"</?b>", "**", text) for name, text in told.items()}
    edges = [
        f"- {told[before]} → {told[after]}: {text}"
        for before, text, after in _EDGE.findall(diagram[1])
    ]
    if not edges or len(edges) < diagram[1].count("-->"):
        raise SystemExit(f"docs/pages.py: what is this diagram in words?\n{diagram[1]}")
    return "\n".join(edges)


def _parts(markdown: str, indented: str = " *") -> Iterator[tuple[bool, str]]:
    """Whether it is fenced code, and the text."""
    fenced = rf"(^{indented}```.*?^{indented}```)"
    for number, part in enumerate(re.split(fenced, markdown, flags=re.MULTILINE | re.DOTALL)):
        yield number % 2 == 1, part


def _linked(page: Path) -> list[Path]:
    """What `page` links to in this repository, and exists."""
    links = [
        link[2].partition("#")[0]
        for is_code, text in _parts(page.read_text("utf-8"))
        if not is_code
        for link in _LINK.finditer(text)
    ]
    paths = [(page.parent / link).resolve() for link in links if link and "://" not in link]
    return [path for path in paths if path.exists() and path.is_relative_to(ROOT)]


def _inside(folder: Path) -> list[Path]:
    """What git would have there, nearly: no caches, nothing that was installed."""
    return sorted(
        each
        for each in folder.iterdir()
        if not each.name.startswith((".", "__pycache__", "node_modules"))
    )


def _as_it_is(path: Path, config: MkDocsConfig) -> File:
    return File(_uri(path), str(ROOT), config.site_dir, config.use_directory_urls)


def _generated(uri: str, content: str, config: MkDocsConfig) -> File:
    return File.generated(config, uri, content=content, inclusion=InclusionLevel.NOT_IN_NAV)


def _source(path: Path, config: MkDocsConfig) -> File:
    """A page that shows the file."""
    language = _LANGUAGES.get(path.suffix, path.suffix.removeprefix(".")) or "text"
    fence = "`" * 12
    shown = f"# {_uri(path)}\n\n{fence}{language}\n{path.read_text('utf-8').rstrip()}\n{fence}\n"
    return _generated(f"{_uri(path)}.md", shown, config)


def _listing(folder: Path, config: MkDocsConfig) -> File:
    """A page that leads to what is in the folder."""
    lines = [f"# {_uri(folder)}/", ""]
    for each in _inside(folder):
        if each.suffix == ".md":
            lines.append(f"- [{_title(each)}]({each.name})")
        elif each.is_file():
            lines.append(f"- [{each.name}]({each.name})")
        else:
            lines.append(f"- {each.name}/")
    return _generated(f"{_uri(folder)}/index.md", "\n".join(lines) + "\n", config)


def _title(page: Path) -> str:
    return page.read_text("utf-8").partition("\n")[0].removeprefix("# ")


def _uri(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
