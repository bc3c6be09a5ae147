"""Tree ensembles: how they are read, and the forms in which they are evaluated."""
