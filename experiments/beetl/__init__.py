"""The BEETL competition, from files to a score."""
