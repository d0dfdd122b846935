"""The component evaluate_accuracy: see `component.py` for its contract."""
