"""Only what pyproject.toml cannot say: the packages are this folder and those in it, under the package's name."""

from setuptools import find_packages, setup

NAME = "comfyui_exemplar"
WORKSHOP = ("tests*", "texts*", "bench*", "training*", "findings*", "build*", "out*")

setup(package_dir={NAME: "."}, packages=[NAME, *(f"{NAME}.{name}" for name in find_packages(".", exclude=WORKSHOP))])
