"""The component close_release: see `component.py` for its contract."""
