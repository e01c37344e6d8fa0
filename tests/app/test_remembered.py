"""A deployment that remembers scores: what is asked again, what a promotion forgets, and who shows how often."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import shop
from alias_moves import AS_OF, CLI, promote

import forked
from processes import eventually


@pytest.fixture
def remembering(trained: Path) -> Path:
    """The deployment "buyer" remembers, "learner" does not."""
    file = trained / "project.py"
    text = file.read_text()
    assert 'buyer("buyer", batch)' in text
    file.write_text(text.replace('buyer("buyer", batch)', 'buyer("buyer", batch, cache=tt.cache("1MB", ttl="1h"))'))
    return trained


def test_one_deployment_remembers_and_a_promotion_forgets(remembering: Path) -> None:
    with shop.opened(remembering) as project:
        endpoint = project.served("buyer").endpoint

        def ask(key: str) -> Any:
            return project.predict("buyer", [shop.visit(key, shop.NOW_US)])[0]

        first, again = ask("a"), ask("b")
        figures = endpoint.cached
        assert figures is not None
        assert (figures.hits, figures.misses) == (1, 1)
        assert (again.score, again.id != first.id) == (first.score, True)
        promote(project, "buyer@1")
        project.served("buyer").refresh()
        other = ask("c")
        assert other.version == "buyer@1"
        assert (figures.hits, figures.misses) == (1, 2)
        project.predict("learner", [shop.visit("d", shop.NOW_US)])
        assert project.served("learner").endpoint.cached is None
        assert "caches scores, in up to 1 MB of each serving process" in "\n".join(project.status().lines())
        assert [one.cache is None for one in project.status().deployments] == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_status_top_and_metrics_show_how_often_scores_were_remembered(remembering: Path, workers: str) -> None:
    def said(*words: str) -> str:
        return forked.run(
            [*CLI, *words], cwd=remembering, env=shop.environment(), capture_output=True, text=True, check=True
        ).stdout

    with shop.serving(remembering, "--as-of", AS_OF, "--workers", workers) as (_, url):
        _once(said, "caches scores, in up to 1 MB; no request yet")
        body = {"request": {**shop.visit("k", shop.NOW_US), "at": AS_OF}}
        for _ in range(20):
            assert shop.call(f"{url}/v1/models/buyer/predict", body)[0] == 200
        shown = _once(said, "% of 20")
        text = shop.call(f"{url}/metrics")[1]
        found = re.findall(r'trimtab_remembered_scores_total\{.*model="buyer",found="(\w+)"\} (\d+)', text)
        yes = sum(int(count) for kind, count in found if kind == "yes")
        assert f"{yes / 20:.1%} of 20" in shown
        top = json.loads(said("--json", "service", "top", "--once", "--every", "0.2"))
        assert top["remembered"] == [{"model": "buyer", "lately": None, "since_start": yes / 20}]
        lines = said("service", "top", "--once", "--every", "0.2")
        assert re.search(rf"cached scores +lately +since start\n  buyer +- +{100 * yes / 20:.1f}%", lines)
        assert yes >= 16  # all but the first of each worker, and of a window that went on


def _once(said: Any, words: str) -> str:
    """The status once it has the words: workers tell what they count once a second."""
    return str(eventually(lambda: text if words in (text := said("status")) else None, words))
