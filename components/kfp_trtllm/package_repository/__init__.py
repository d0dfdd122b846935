"""The component package_repository: see `component.py` for its contract."""
