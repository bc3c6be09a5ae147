"""A rewrite for onnxtune, as a package of its own."""
