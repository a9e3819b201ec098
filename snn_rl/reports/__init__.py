"""Reports, figures, videos and model cards of runs."""
