import subprocess
import sys

import pytest

import liquid_mm


def test_every_public_name_is_there():
    for name in liquid_mm.__all__:
        assert getattr(liquid_mm, name) is not None
    assert dir(liquid_mm) == sorted(liquid_mm.__all__)
    assert sorted(name for names in liquid_mm._HOME.values() for name in names) == sorted(liquid_mm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        liquid_mm.lod  # noqa: B018


def test_importing_the_package_is_light():
    code = "import sys, liquid_mm; print(*(m for m in ('torch', 'transformers', 'numpy') if m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == ""
