"""What single commands print, on the consoles of :mod:`dpft.cli.render`."""
