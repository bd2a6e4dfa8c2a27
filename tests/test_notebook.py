"""The notebook runs as it stands there, and is stored without what it shows."""

import json
import re

import pytest

from tests.test_docs import ROOT

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def test_it_is_stored_without_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert len(codes) > 5
    assert not any(cell["outputs"] or cell["execution_count"] for cell in codes)
    # Hosted notebooks begin with this cell; where the package is there, nothing is fetched.
    assert "%pip install" in "".join(codes[0]["source"])
    assert not any("pip install" in "".join(cell["source"]) for cell in codes[1:])


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason="pip install 'autogaze[docs]'")
    nbclient = pytest.importorskip("nbclient", reason="pip install 'autogaze[docs]'")
    pytest.importorskip("ipykernel", reason="pip install 'autogaze[docs]'")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    kinds = {kind for output in outputs for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= kinds
    printed = "".join(output.get("text", "") for output in outputs)
    losses = {
        name: float(loss)
        for name, loss in re.findall(r"^(\S+) +\d+ patches, canvas loss (\S+)$", printed, re.M)
    }
    assert losses["greedy"] < losses["learned"] < losses["random"]
    assert (tmp_path / "video.safetensors").is_file()
