"""One file per family of steps: how tuned numbers go back into a fitted step."""
