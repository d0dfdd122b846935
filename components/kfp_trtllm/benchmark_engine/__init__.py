"""The component benchmark_engine: see `component.py` for its contract."""
