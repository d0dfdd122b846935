"""The component select_engine: see `component.py` for its contract."""
