"""Any class with `fit` and `predict` in a project: only where the model says that it trusts it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import shop

import forked
import trimtab as tt
from trimtab.app.project import Project, open_project
from trimtab.core.errors import Misuse

OWN = '''
import numpy as np


class Own:
    """Knows the shares of two halves; answers with one number a row, or with what `SPOILT` says."""

    def fit(self, inputs, target):
        self.middle = np.median(inputs[:, 0])
        high = inputs[:, 0] > self.middle
        self.shares = [float(target[~high].mean()), float(target[high].mean())]
        return self

    def predict(self, inputs):
        return SPOILT(np.where(inputs[:, 0] > self.middle, self.shares[1], self.shares[0]))


def SPOILT(scores):
    return scores
'''


def write(folder: Path, *, trust: str = ', trust="pickle"', spoilt: str = "scores", inline: bool = False) -> Path:
    shop.write_project(folder)
    own = OWN.replace("return scores\n", f"return {spoilt}\n")
    text = (folder / "project.py").read_text().replace('metric="log_loss")', f'metric="log_loss"{trust})')
    head = own if inline else "from own_estimator import Own\n"
    text = text.replace('\nbuyer("buyer", batch)', f'\n{head}\nbuyer("buyer", Own)')
    (folder / "project.py").write_text(text)
    (folder / "own_estimator.py").write_text(own)
    sys.modules.pop("own_estimator", None)  # each test has its own
    return folder


def loaded(folder: Path) -> Project:
    project = shop.opened(folder)
    shop.load(project)
    return project


@pytest.mark.parametrize("inline", [False, True])
def test_a_trusted_class_of_the_project_is_trained_and_served_and_says_so(tmp_path: Path, inline: bool) -> None:
    folder = write(tmp_path / "own", inline=inline)
    with loaded(folder) as project:
        assert project.train()[-1].act == "promote"
        version = project.registry.get("buyer@champion")
        assert (version.runtime, version.trust) == ("pickle", "pickle")
        assert "Loading it runs code from the artifact (pickle)" in project.registry.card(version)
        assert any("trust: pickle (loading it runs code" in line for line in project.status().lines())
    sys.modules.pop("own_estimator", None)
    with shop.opened(folder) as project:
        answer = project.predict("buyer", [shop.visit("new", shop.NOW_US - 1)])[0]
        assert 0 < answer.score < 1


@pytest.mark.soak
def test_a_process_of_its_own_trains_a_trusted_class(tmp_path: Path) -> None:
    folder = write(tmp_path / "own", inline=True)
    with loaded(folder):
        pass
    with open_project(folder, environment={}) as project:
        assert project.train()[-1].act == "promote"
    command = "import trimtab as tt; p = tt.open('.'); print(p.predict('buyer', [{'visit_id': 'n', 'site': 'north', "
    command += "'at': 1710000000000000, 'x': 0.5}])[0].version)"
    done = forked.run(
        [sys.executable, "-c", command], cwd=folder, env=shop.environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("buyer@")


def test_a_class_without_trust_is_refused_and_nothing_is_stored(tmp_path: Path) -> None:
    with loaded(write(tmp_path / "own", trust="")) as project:
        with pytest.raises(Misuse, match=r'own_estimator\.Own: no safe format can store it\. .* trust="pickle"'):
            project.train()
        assert project.registry.versions("buyer") == []
        assert project.runs()[-1].state == "failed"


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        ("scores * np.nan", r"model 'buyer': \d+ of \d+ predictions are not numbers, e.g. nan"),
        ("scores[1:]", r"model 'buyer': found predictions of shape \(\d+,\) for \d+ rows"),
        ("np.stack([scores, scores], 1)", r"model 'buyer': found predictions of shape \(\d+, 2\) for \d+ rows"),
        ("scores + 1", r"model 'buyer': \d+ of \d+ predictions lie outside \[0, 1\]"),
        ("1 / 0", "model 'buyer': its prediction raised ZeroDivisionError"),
    ],
)
def test_what_answers_nonsense_is_refused_and_the_run_says_why(tmp_path: Path, spoilt: str, message: str) -> None:
    with loaded(write(tmp_path / "own", spoilt=spoilt)) as project:
        with pytest.raises(Misuse, match=message):
            project.train()
        assert project.registry.versions("buyer") == []
        run = project.runs()[-1]
        assert (run.state, run.error) == ("failed", "Misuse")


@pytest.mark.fast
def test_trust_is_one_word(tmp_path: Path) -> None:
    order = tt.request("order", key="id", time="at", columns={"id": str, "at": tt.Time, "x": float})
    came = tt.source("came", time="at", columns={"id": str, "at": tt.Time, "came": bool})
    with pytest.raises(Misuse, match=r"model 'm': trust='yes'. Give \"pickle\""):
        tt.model(
            "m",
            request=order,
            features=[{"x": tt.col("x")}],
            label=tt.label(came, key="id", value="came", wait="1d"),
            estimator=object,
            metric="log_loss",
            trust="yes",  # type: ignore[arg-type]  # what somebody may write
        )


WATCHED = """

def watched(own, state):
    import os, pathlib
    own.__dict__.update(state)
    here = pathlib.Path(__file__).parent
    with (here / "loaded").open("a") as file:
        print(os.getpid(), file=file)
    if (here / "die").exists():
        os._exit(3)


Own.__setstate__ = watched
"""


def test_the_status_runs_no_code_of_an_artifact_in_its_own_process(tmp_path: Path) -> None:
    folder = write(tmp_path / "own")
    (folder / "own_estimator.py").write_text(OWN + WATCHED)
    with loaded(folder) as project:
        assert project.train()[-1].act == "promote"
    loads = folder / "loaded"
    loads.unlink()
    with shop.opened(folder) as project:
        assert [line for line in project.status().red if "cannot answer" in line] == []
        assert str(os.getpid()) not in loads.read_text().split()
        (folder / "die").touch()
        (red,) = [line for line in project.status().red if "cannot answer" in line]
        assert red.startswith("buyer: buyer@2 cannot answer: ")
        assert "status 3" in red
        assert red.endswith("Or run: trimtab train buyer")


@pytest.mark.parametrize("gone", [False, True])
def test_a_champion_whose_class_was_changed_can_be_replaced_though_it_answers_nobody(
    tmp_path: Path, gone: bool
) -> None:
    folder = write(tmp_path / "own", inline=True)
    with loaded(folder) as project:
        assert project.train()[-1].act == "promote"
    write(folder, inline=True, spoilt="scores * 0.9")
    if gone:
        text = (folder / "project.py").read_text()
        (folder / "project.py").write_text(text.replace("class Own", "class Other").replace("Own)", "Other)"))
    with shop.opened(folder) as project:
        project.apply()
        code = "Pickle does not store the code of the model's class: bring that code back as it was"
        with pytest.raises(Misuse, match=code):
            project.predict("buyer", [shop.visit("new", shop.NOW_US - 1)])
        (red,) = [line for line in project.status().red if "buyer@2" in line]
        assert red.startswith("buyer: buyer@2 cannot answer: ")
        assert code in red
        decisions = project.train()
        assert [d.act for d in decisions] == ["train", "gate", "promote"]
        gate = project.registry.get_gate(str(decisions[1].evidence["gate"]))
        assert gate.champion_metric is None
        said = next(one.reason for one in gate.findings if one.name == "rival")
        assert said.startswith("Nothing was compared with buyer@2, which cannot be loaded any more: ")
        assert said in gate.reason
        assert project.predict("buyer", [shop.visit("later", shop.NOW_US - 1)])[0].version == "buyer@4"
