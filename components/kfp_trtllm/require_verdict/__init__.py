"""The component require_verdict: see `component.py` for its contract."""
