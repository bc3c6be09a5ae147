"""The parts of gpu.py: what is made beforehand, and what is measured on the card."""
