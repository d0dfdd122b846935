"""The component fetch_model: see `component.py` for its contract."""
