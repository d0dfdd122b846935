"""The component build_engine: see `component.py` for its contract."""
