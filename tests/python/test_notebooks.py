"""The notebooks run from top to bottom beside a platform, and are kept without what they showed."""
import os
import pathlib

import nbformat
import pytest
from conftest import REPOSITORY
from nbclient import NotebookClient

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path, platform, tmp_path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells), "clear the outputs before you save it"
    monkeypatch.setenv("POLYBOLOS_DATA_DIR", str(platform.folder))
    for variable in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "MPLCONFIGDIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(path.parent)}}).execute()
    shown = [output.data for cell in cells for output in cell.outputs if "data" in output]
    pictures, tables = (sum(kind in data for data in shown) for kind in ("image/png", "text/html"))
    assert pictures >= 3 and tables >= 2, [list(data) for data in shown]
    assert not any(output.output_type == "stream" and output.name == "stderr" for cell in cells for output in cell.outputs)
    if artefacts := os.environ.get("POLYBOLOS_ARTEFACTS"):
        nbformat.write(notebook, pathlib.Path(artefacts) / path.name)
    assert platform.sql("SELECT name FROM polybolos.jobs") == [{"name": "created_users_job"}], "it leaves nothing behind"
