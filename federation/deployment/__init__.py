"""Keys, launcher, and the doors of server and site."""
