"""The machinery that every rewrite shares."""
