"""Estimators and model files that end the process that works on them: who it was is said."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pytest
import shop

from trimtab.app.project import open_project
from trimtab.core.errors import Misuse, Unavailable

ENDING = """

class Ending:
    def fit(self, inputs, target):
        import os
        {ending}

    def predict_proba(self, inputs):
        return inputs


buyer("buyer", Ending)
"""


@pytest.mark.parametrize(
    ("ending", "kind", "message"),
    [
        (
            "os.abort()",
            Unavailable,
            "training of model 'buyer', step 'fit': .*SIGABRT.* the estimator's library: try",
        ),
        ("raise SystemExit(3)", Misuse, r"Ending.fit raised SystemExit: 3 \(on \d+ rows"),
    ],
)
def test_an_estimator_that_ends_its_process_is_named(
    tmp_path: Path, ending: str, kind: type[Exception], message: str
) -> None:
    folder = shop.write_project(tmp_path / "p")
    file = folder / "project.py"
    text = file.read_text().replace('\nbuyer("buyer", batch)', ENDING.format(ending=ending))
    file.write_text(text.replace('metric="log_loss")', 'metric="log_loss", trust="pickle")'))
    with open_project(folder, environment={"TRIMTAB_TRAINING_EXECUTOR": "process"}) as project:
        shop.load(project)
        with pytest.raises(kind, match=message) as found:
            project.train("buyer")
        assert project.runs()[-1].state == "failed"
    assert "training_work" not in str(found.value)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_a_model_file_that_was_cut_short_is_named_and_nobody_is_told_to_try_it_again(
    tmp_path: Path, share: float
) -> None:
    inputs = np.random.default_rng(0).normal(size=(300, 4))
    data = lightgbm.Dataset(inputs, (inputs[:, 0] > 0).astype(float))
    text = lightgbm.train({"objective": "binary", "verbosity": -1, "num_threads": 1}, data, 5).model_to_string()
    file = tmp_path / "cut.txt"
    file.write_text(text[: int(len(text) * share)])
    folder = shop.write_project(tmp_path / "p")
    with shop.opened(folder) as project:
        shop.load(project)
        with pytest.raises(Misuse, match=r"import cut\.txt: ") as found:
            project.import_model(file, "buyer", window="7d", categories={"site": ["north", "south"]})
    said = str(found.value)
    assert "cut.txt" in said
    assert "ave it again" in said
    assert "Try again" not in said
    assert "inspecting:inspect" not in said
