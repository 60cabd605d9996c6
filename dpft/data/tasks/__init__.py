"""One file per task; ``dpft.tables.TASKS`` names them."""
