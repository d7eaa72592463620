"""`python -m flows VERB`: options, messages, and refusals before the heavy imports."""
