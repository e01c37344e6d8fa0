"""A network of PyTorch from a project file to an answer: trained in a process of its own, promoted, served."""

from __future__ import annotations

import re
import sys
import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest
import shop

from trimtab.core.columns.data import Columns, column
from trimtab.core.errors import Corrupt, Misuse
from trimtab.registry.transfer.mlflow import OF_TORCH
from trimtab.training.fitting.artifact import decode_artifact, encode_artifact

pytest.importorskip("torch", reason="PyTorch is no part of the lock: its build for Linux brings 3 GB for GPUs")
MODEL = """
def network(inputs, outputs):
    from torch import nn

    return nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, outputs))


def wavering(inputs, outputs):
    import torch

    class Wavering(torch.nn.Linear):
        def forward(self, rows):
            return super().forward(rows) + 0.1 * torch.randn(len(rows), 1)

    return Wavering(inputs, outputs)


def guessing():
    from trimtab.training import neural

    return neural(wavering)


def buying():
    from trimtab.training import neural

    return neural(network, epochs=40, batch_rows=64, learning_rate=0.01)


model = tt.model("buyer", request=visit, features=[{"x": tt.col("x")}, site], estimator=buying, metric="log_loss",
    label=tt.label(sales, key="visit_id", value=tt.col("bought"), wait="2d"))
tt.deployment(model, gate=tt.beats_champion(calibration=0.15))
buyer("guesser", guessing)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = shop.write_project(tmp_path_factory.mktemp("neural") / "project")
    (folder / "project.py").write_text(shop.PROJECT.replace('buyer("buyer", batch)', MODEL))
    with shop.opened(folder) as project:
        shop.load(project, per_day=30)
        decisions = project.train("buyer")
        assert [d.act for d in decisions] == ["train", "gate", "promote"], [d.cause for d in decisions]
    return folder


def test_a_network_is_promoted_and_answers_alike_alone_together_and_over_http(folder: Path) -> None:
    with shop.opened(folder) as project:
        loaded = project.registry.load("buyer@champion")
        assert loaded.artifact.runtime == "torch"
        assert "torch" in loaded.version.environment.packages
        matrix = np.random.default_rng(0).normal(size=(50, len(loaded.inputs)))
        alone = [loaded.predict_row(row) for row in matrix.tolist()]
        np.testing.assert_allclose(alone, loaded.predict(matrix), rtol=0, atol=1e-6)
        low, high = project.predict("buyer", [shop.visit("q1", shop.NOW_US, -2.0), shop.visit("q2", shop.NOW_US, 2.0)])
        assert low.score < high.score
        assert project.predictions.find(low.id).score == low.score
        found = project.evaluation("buyer@champion")
        assert found.value < found.baselines["constant"]  # type: ignore[operator]  # it is never missing
        assert "torch" in found.no_influences
    visit = {**shop.visit("h1", shop.NOW_US, 2.0), "at": "2024-04-10T00:00:00Z"}
    with shop.serving(folder, "--as-of", "2024-04-10T00:00:00Z") as (_, url):
        status, answer = shop.call(f"{url}/v1/models/buyer/predict", {"request": visit})
    assert status == 200
    assert answer["score"] == pytest.approx(high.score, abs=1e-6)


def test_a_module_is_imported_by_what_the_message_of_its_own_file_says(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript", reason="PyTorch writes no ONNX without it")
    import torch

    class Sensible(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return torch.sigmoid(self.layers(torch.nan_to_num(rows)))

    said = re.search(r"torch\.onnx\.export\(.*external_data=False\)", OF_TORCH)
    assert said is not None
    monkeypatch.chdir(tmp_path)
    module = Sensible()
    with warnings.catch_warnings(action="ignore"):  # PyTorch's own
        exec(said[0], {"torch": torch, "module": module, "INPUTS": 3})
    with shop.opened(folder) as project:
        made = project.import_model(tmp_path / "model.onnx", "buyer", window="7d")
        loaded = project.registry.load(made)
    matrix = np.random.default_rng(0).normal(size=(50, 3))
    matrix[::3, 2] = np.nan
    with torch.inference_mode():
        expected = module(torch.from_numpy(matrix.astype(np.float32))).numpy()[:, 0]
    np.testing.assert_allclose(loaded.predict(matrix), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose([loaded.predict_row(row) for row in matrix.tolist()], expected, rtol=0, atol=1e-6)


def test_features_in_another_order_are_brought_into_the_models_own_and_an_artifact_of_another_is_refused(
    folder: Path,
) -> None:
    with shop.opened(folder) as project:
        artifact = project.registry.load("buyer@champion").artifact
    numbers = {name: column("float", [float(place)]) for place, name in enumerate(artifact.inputs)}
    turned = Columns(dict(reversed(numbers.items())))
    assert artifact.encoding.matrix(turned).tolist() == [[float(place) for place in range(len(numbers))]]
    swapped = msgspec.structs.replace(artifact, inputs=artifact.inputs[::-1])
    with pytest.raises(Corrupt, match="list the features differently"):
        decode_artifact(encode_artifact(swapped))


def test_a_network_that_answers_by_chance_is_refused(folder: Path) -> None:
    with shop.opened(folder) as project, pytest.raises(Misuse, match="answers the same rows another time by up to"):
        project.train("guesser")


def test_a_changed_network_is_told_apart_from_that_of_the_version(folder: Path, tmp_path: Path) -> None:
    text = (folder / "project.py").read_text()
    try:
        (folder / "project.py").write_text(text.replace("Dropout(0.1)", "Dropout(0.2)"))
        with shop.opened(folder) as project:
            (red,) = [line for line in project.status().red if "cannot answer" in line]
            assert "network, which builds the module, was changed after the training" in red
            with pytest.raises(Misuse, match="was changed after the training"):
                project.registry.load("buyer@champion")
    finally:
        (folder / "project.py").write_text(text)
    with shop.opened(folder) as project:
        assert project.registry.load("buyer@champion").artifact.runtime == "torch"
        sys.modules["trimtab_project_project"].network = None
        with pytest.raises(Misuse, match="torch: "):
            project.registry.load("buyer@champion")
