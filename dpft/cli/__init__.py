"""The command line: options, one file per command, and the one place that prints."""
