"""The component check_release: see `component.py` for its contract."""
