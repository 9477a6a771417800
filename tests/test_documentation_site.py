"""The documentation site: every page is in its navigation, its links stay within it, and it needs no network."""

import re
import subprocess
import sys

import pytest

from scripts import documentation_site as site
from scripts.docs import ROOT


def places(nav):
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from places(value) if isinstance(value, list) else [value]


def test_navigation_has_every_page_once():
    found = list(places(site.navigation()))
    pages = {path.relative_to(site.DOCS) for path in site.DOCS.rglob("*.md") if "results" not in path.parts}
    missing = {page.as_posix() for page in pages} - set(found)
    assert not missing, f"docs/index.md, or the index of their folder, does not name {sorted(missing)}"
    assert len(found) == len(set(found))


def test_links_to_source_lead_to_the_page_of_the_module():
    text = "[PPO](../gantry/agents/ppo.py), [`parts`](../gantry/agents/parts), [task](new_task.md#run-it), [x](#y)"
    assert site.with_links(text, site.DOCS / "ppo.md", "ppo.md") == (
        "[PPO](api/gantry.agents.ppo.md), [`parts`](api/gantry.agents.parts.md), [task](new_task.md#run-it), [x](#y)"
    )
    deeper = site.with_links("[PPO](../../gantry/agents/ppo.py)", site.DOCS / "course" / "a.md", "course/a.md")
    assert deeper == "[PPO](../api/gantry.agents.ppo.md)"


def test_links_to_other_files_become_text_and_code_stays():
    text = "[a test](../tests/conftest.py) `[a](../tests/conftest.py)`\n```\n[b](../tests/conftest.py)\n```\n"
    expected = "a test `[a](../tests/conftest.py)`\n```\n[b](../tests/conftest.py)\n```\n"
    assert site.with_links(text, site.DOCS / "ppo.md", "ppo.md") == expected


def test_links_to_folders_lead_to_their_index_or_become_text():
    text = "[course](docs/course), [notebooks](docs/notebooks)"
    assert site.with_links(text, site.ROOT / "CHANGELOG.md", "changes.md") == "[course](course/index.md), notebooks"


@pytest.mark.slow
def test_site_builds_without_a_warning_and_needs_no_network(tmp_path):
    for package in ("mkdocs", "material", "mkdocstrings", "pymdownx"):
        pytest.importorskip(package)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-2000:]
    loading = re.compile(r"<(?:script|img|iframe)[^>]*\bsrc=[\"']?(?:https?:)?//|<link[^>]*\bhref=[\"']?(?:https?:)?//")
    for page in tmp_path.rglob("*.html"):
        assert not loading.search(page.read_text(encoding="utf-8")), page.name
    assert "proximal policy" in (tmp_path / "search" / "search_index.js").read_text(encoding="utf-8").lower()
