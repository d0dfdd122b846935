"""Statistics that decide: counts or scores in, a verdict with its numbers out. Pure, and in stdlib math."""
