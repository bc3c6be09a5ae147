"""What classifiers do with their scores: links and labels."""
