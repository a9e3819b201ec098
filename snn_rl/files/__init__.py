"""Reading and writing of files: networks, checkpoints, foreign formats."""
