import doctest
import subprocess
import sys

import pytest

import dpft.accounting
import dpft.accounting.calibrate


def test_importing_the_package_imports_nothing_heavy():
    heavy = ("dp_accounting", "numpy", "scipy", "torch")
    modules = "dpft.accounting, dpft.accounting.calibrate, dpft.accounting.pld, dpft.accounting.rdp"
    code = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_exported_names_exist():
    assert sorted(dpft.accounting.__all__) == dpft.accounting.__all__
    for name in dpft.accounting.__all__:
        assert getattr(dpft.accounting, name) is not None


@pytest.mark.parametrize("module", [dpft.accounting, dpft.accounting.calibrate])
def test_examples_in_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0
