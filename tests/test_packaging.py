"""What people install: the wheel, the source archive, the editable install, and what `import binmat` costs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import binmat

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, *path: Path, cwd: Path) -> str:
    """Run code in a fresh interpreter that finds binmat on these paths only: -S leaves editable installs out."""
    search = [*map(str, path), sysconfig.get_paths()["purelib"]]
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(search)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(kind: str, source: Path, into: Path) -> Path:
    """Build a wheel, an sdist or an editable wheel of the source tree; return its path."""
    code = f"from scikit_build_core.build import build_{kind} as build; build({str(into)!r})"
    python(code, cwd=source)
    (built,) = into.iterdir()
    return built


def package_files(source: Path) -> set[str]:
    """The package's files, through the links to the folders at the root."""
    found = set()
    for folder, _, names in os.walk(source / "binmat", followlinks=True):
        if Path(folder).name != "__pycache__":
            found |= {(Path(folder) / name).relative_to(source).as_posix() for name in names}
    return found


def wheel_files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def test_wheel_holds_the_whole_package_and_nothing_beside_it(wheel: Path) -> None:
    files = wheel_files(wheel)
    assert {"binmat/model_defs/network.py", "binmat/transforms/lowering/lowered_graph.py", "binmat/py.typed"} <= files
    assert package_files(ROOT) <= files
    assert {name.split("/")[0] for name in files} == {"binmat", f"binmat-{binmat.__version__}.dist-info"}
    assert any(name.endswith("licenses/LICENSE") for name in files)


def test_wheel_is_a_pure_one_that_suits_every_machine(wheel: Path) -> None:
    assert wheel.name == f"binmat-{binmat.__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"binmat-{binmat.__version__}.dist-info/WHEEL").decode()
    assert "Root-Is-Purelib: true" in metadata.splitlines()


def test_every_module_imports_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    sources = (Path(name).with_suffix("") for name in wheel_files(wheel) if name.endswith(".py"))
    modules = {".".join(path.parts).removesuffix(".__init__") for path in sources if path.name != "__main__"}
    assert "binmat.transforms.lowering.lowered_graph" in modules
    code = f"import importlib\nfor name in {sorted(modules)}: print(importlib.import_module(name).__file__)"
    origins = python(code, tmp_path, cwd=tmp_path).split()
    assert len(origins) == len(modules)
    assert all(Path(origin).is_relative_to(tmp_path) for origin in origins)


@pytest.mark.slow
def test_source_archive_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    (tmp_path / "sdist").mkdir()
    (tmp_path / "wheel").mkdir()
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path, filter="data")
    rebuilt = build("wheel", tmp_path / f"binmat-{binmat.__version__}", tmp_path / "wheel")
    assert wheel_files(rebuilt) == wheel_files(wheel)


@pytest.mark.slow
def test_editable_install_follows_files_that_come_and_move(tmp_path: Path) -> None:
    source, site = tmp_path / "source", tmp_path / "site"
    site.mkdir()
    skip = shutil.ignore_patterns(".*", "build", "out", "__pycache__")
    shutil.copytree(ROOT, source, symlinks=True, ignore=skip)
    with zipfile.ZipFile(build("editable", source, tmp_path / "editable")) as archive:
        archive.extractall(site)
    (source / "model_defs" / "added.py").write_text("VALUE = 1\n")
    (source / "binmat" / "moved").mkdir()
    (source / "binmat" / "errors.py").rename(source / "binmat" / "moved" / "__init__.py")
    code = f"""
import importlib.util, site
site.addsitedir({str(site)!r})
import binmat, binmat.model_defs.added, binmat.moved
print(binmat.__file__)
assert issubclass(binmat.moved.SizeError, binmat.moved.BinmatError)
assert importlib.util.find_spec("binmat.errors") is None
"""
    assert Path(python(code, site, cwd=tmp_path).strip()) == source / "binmat" / "__init__.py"


def test_what_is_tested_is_this_checkout() -> None:
    """Another checkout's editable install goes before PYTHONPATH: scikit-build-core installs it as an import hook."""
    assert Path(binmat.__file__).is_relative_to(ROOT)


def test_import_is_light() -> None:
    code = "import sys, binmat; dir(binmat); print(*sorted({'torch', 'numpy', 'typer', 'pydantic'} & set(sys.modules)))"
    assert python(code, ROOT, cwd=ROOT).split() == []


@pytest.mark.parametrize("name", binmat.__all__)
def test_public_name(name: str) -> None:
    assert getattr(binmat, name) is getattr(binmat, name)
    assert name in dir(binmat)


def test_unknown_public_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'binarise'"):
        _ = binmat.binarise


def test_errors_name_extras_that_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set()
    for file in (name for name in package_files(ROOT) if name.endswith(".py")):
        named |= set(re.findall(r'MissingExtraError\(\s*"[^"]*",\s*"(\w+)"', (ROOT / file).read_text()))
    assert "lce" in named
    assert named <= set(extras)


def test_every_dependency_is_pinned() -> None:
    def normal(requirement: str) -> str:
        return re.split(r"[\s<>=!~;\[]", requirement)[0].lower().replace("_", "-")

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for requirements in project["project"]["optional-dependencies"].values():
        wanted += requirements
    lines = (line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = dict(re.fullmatch(r"(\S+)==(\S+)", line).groups() for line in lines if line)
    assert {normal(requirement) for requirement in wanted} - {"binmat"} <= {normal(name) for name in pins}
    assert pins["torch"] == "2.13.0"
    assert int(pins["numpy"].split(".")[0]) < 2
