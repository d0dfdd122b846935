"""How good and how fast a text model is: tasks, the reference, the comparison of both, and a benchmark."""
