"""Every notebook runs from top to bottom, from its own folder, and is stored without outputs or machine paths."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
CELL_TIMEOUT_S = 180


@pytest.fixture
def nbformat():
    return pytest.importorskip("nbformat", reason="nbformat is missing: pip install '.[test]'")


def test_there_are_notebooks():
    assert PATHS


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_is_valid_and_stored_without_outputs(path, nbformat):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and not any(cell.outputs or cell.execution_count for cell in code)
    assert not any(start in cell.source for cell in notebook.cells for start in ("/home/", "/root/", "C:\\"))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebook_runs(path, nbformat, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient is missing: pip install '.[test]'")
    pytest.importorskip("ipykernel", reason="ipykernel is missing: pip install '.[test]'")
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    monkeypatch.setenv("MPLBACKEND", "agg")
    # a kernel of this interpreter, whatever Jupyter kernels the machine has installed
    manager = AsyncKernelManager()
    manager._kernel_spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python"
    )
    client = nbclient.NotebookClient(
        nbformat.read(path, as_version=4), km=manager, timeout=CELL_TIMEOUT_S,
        resources={"metadata": {"path": str(path.parent)}},
    )  # fmt: skip
    client.execute()
    assert not [o for cell in client.nb.cells for o in cell.get("outputs", []) if o.output_type == "error"]
