"""Training and scoring of image classifiers."""
