"""The parts of trees.py; nothing is imported here, since one part runs elsewhere."""
