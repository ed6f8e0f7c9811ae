"""Recordings to trials to a prepared store on the site's disk."""
