"""Package metadata, and the mapping of the top-level folders to subpackages.

`configs/`, `needlebench/`, `ruler_patches/` and `tiny_models/` lie at the top of a checkout, where
people look for them, and install as `opencompass_llada.configs` and so on, so that nothing generic
lands in site-packages and relative `read_base` imports resolve the same in both
places. Symbolic links of those names inside opencompass_llada/ serve absolute `read_base` imports
(`from opencompass_llada.needlebench.niah import ...`) in a checkout and an editable install, where
mmengine joins paths; they are left out here. Tool settings are in pyproject.toml, requirements in
requirements.txt, tested versions in constraints.txt.
"""

import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

ROOT = Path(__file__).parent
PACKAGE = "opencompass_llada"
MAPPED_FOLDERS = ("configs", "needlebench", "ruler_patches", "tiny_models")


def read_version() -> str:
    """Return `__version__` from the package without importing it."""
    source = (ROOT / PACKAGE / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r"^__version__ = [\"']([^\"']+)[\"']", source, re.MULTILINE)
    if match is None:
        raise RuntimeError(f"{PACKAGE}/__init__.py defines no __version__ = '...'")
    return match.group(1)


def read_requirements() -> list[str]:
    """Return the lines of requirements.txt that are no comments."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def find_packages_of(folder: str, package: str) -> list[str]:
    """List `package` and every folder below `folder` as its subpackages."""
    links = [pattern for name in MAPPED_FOLDERS for pattern in (name, f"{name}.*")]
    exclude = ["*__pycache__*", *(links if folder == PACKAGE else [])]
    found = find_namespace_packages(str(ROOT / folder), exclude=exclude)
    return [package, *(f"{package}.{name}" for name in found)]


package_dir = {PACKAGE: PACKAGE}
packages = find_packages_of(PACKAGE, PACKAGE)
for folder in MAPPED_FOLDERS:
    package_dir[f"{PACKAGE}.{folder}"] = folder
    packages += find_packages_of(folder, f"{PACKAGE}.{folder}")

readme = ROOT / "README.md"

setup(
    name="opencompass-llada",
    version=read_version(),
    description="Long-context evaluation and training of diffusion language models in OpenCompass",
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else "",
    long_description_content_type="text/markdown",
    keywords=[
        *("diffusion language models", "long context", "LLaDA", "Dream", "SDAR", "RoPE scaling"),
        *("OpenCompass", "RULER", "NeedleBench", "LongBench", "post-training"),
    ],
    license="Apache-2.0",
    license_files=["LICENSE"],
    project_urls={
        "LongLLaDA": "https://arxiv.org/abs/2506.14429",
        "UltraLLaDA": "https://arxiv.org/abs/2510.10481",
        "OpenCompass": "https://github.com/open-compass/opencompass",
    },
    python_requires=">=3.10,<3.13",
    packages=packages,
    package_dir=package_dir,
    package_data={
        "": [
            *("*.json", "*.jsonl", "*.safetensors", "*.yaml", "*.yml", "*.txt", "*.md"),
            # The report's templates, and the published figures.
            *("*.html", "*.css", "*.js", "*.csv", "py.typed"),
        ]
    },
    entry_points={"console_scripts": ["opencompass-llada = opencompass_llada.cli:main"]},
    zip_safe=False,
    install_requires=read_requirements(),
    extras_require={
        "test": [
            "pytest",
            "pytest-timeout",
            "pytest-xdist",
            "hypothesis",
            "peft",
            "ruff",
            "mypy",
            # The report is tested in a real browser where there is Chromium.
            "selenium",
            "axe-core-python",
            # The packaging test builds a wheel without build isolation, so without network.
            "setuptools>=70.1",
        ],
        # The documentation as a site.
        "docs": ["mkdocs>=1.6,<2", "mkdocs-material"],
        "flash-attn": ["flash-attn"],
        "peft": ["peft"],
        "tensorboard": ["tensorboard"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
