"""Pipelines composed of the components; `compile.py` writes them to compiled/."""
