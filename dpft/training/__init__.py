"""From a spec to a finished run."""
