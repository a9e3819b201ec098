"""Reading and writing of files: networks, checkpoints and foreign formats."""
