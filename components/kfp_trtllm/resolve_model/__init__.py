"""The component resolve_model: see `component.py` for its contract."""
